-- q0
SELECT auction, bidder, price, dateTime, extra FROM bid
-- q1
SELECT auction, bidder, 0.908e0 * price AS price, dateTime, extra FROM bid
-- q2
SELECT auction, price FROM bid WHERE auction % 23 = 0
-- q3
SELECT p.name, p.city, p.state, a.id FROM auction a JOIN person p ON a.seller = p.id
WHERE a.category = 10 AND (p.state = 'OR' OR p.state = 'ID' OR p.state = 'CA')
-- q4
SELECT category, avg(final) AS final FROM (
  SELECT max(b.price) AS final, a.category FROM auction a, bid b
  WHERE a.id = b.auction AND b.dateTime BETWEEN a.dateTime AND a.expires GROUP BY a.id, a.category) q
GROUP BY category
-- q5
WITH counts AS (
  SELECT auction, count(*) AS num, window_start AS starttime, window_end AS endtime FROM {hop}
  GROUP BY auction, window_start, window_end)
SELECT x.auction, x.num, x.starttime FROM counts x
JOIN (SELECT max(num) AS maxn, starttime, endtime FROM counts GROUP BY starttime, endtime) z
  ON x.starttime = z.starttime AND x.endtime = z.endtime AND x.num >= z.maxn
-- q7
SELECT b.auction, b.price, b.bidder, b.dateTime, b.extra FROM bid b
JOIN (SELECT max(price) AS maxprice, window_end AS t FROM {tumble_bid} GROUP BY window_start, window_end) m
  ON b.price = m.maxprice
WHERE b.dateTime BETWEEN m.t - INTERVAL '10 seconds' AND m.t
-- q8
SELECT p.id, p.name, p.starttime FROM (
  SELECT id, name, window_start AS starttime, window_end AS endtime FROM {tumble_person}
  GROUP BY id, name, window_start, window_end) p
JOIN (
  SELECT seller, window_start AS starttime, window_end AS endtime FROM {tumble_auction}
  GROUP BY seller, window_start, window_end) a
  ON p.id = a.seller AND p.starttime = a.starttime AND p.endtime = a.endtime
-- q9
SELECT id, itemName, seller, bidder, price, bid_time FROM (
  SELECT a.id, a.itemName, a.seller, b.bidder, b.price, b.dateTime AS bid_time,
    row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.dateTime, b.bidder) AS r
  FROM auction a, bid b WHERE a.id = b.auction AND b.dateTime BETWEEN a.dateTime AND a.expires) q
WHERE r <= 1
-- q13
SELECT b.auction, b.bidder, b.price, b.dateTime, s.value FROM bid b JOIN side_input s ON b.auction % 100 = s.key
-- q14
SELECT auction, bidder, 0.908e0 * price AS price,
  CASE WHEN hour(dateTime) >= 8 AND hour(dateTime) <= 18 THEN 'dayTime'
       WHEN hour(dateTime) <= 6 OR hour(dateTime) >= 20 THEN 'nightTime' ELSE 'otherTime' END AS t,
  length(extra) - length(replace(extra, 'c', '')) AS c_counts
FROM bid WHERE 0.908e0 * price > 1000000 AND 0.908e0 * price < 50000000
-- q15
SELECT CAST(dateTime AS DATE) AS day, count(*) AS total, count(*) FILTER (WHERE price < 10000) AS rank1,
  count(DISTINCT bidder) AS bidders, count(DISTINCT bidder) FILTER (WHERE price >= 1000000) AS rank3_bidders,
  count(DISTINCT auction) AS auctions
FROM bid GROUP BY CAST(dateTime AS DATE)
-- q16
SELECT channel, CAST(dateTime AS DATE) AS day, max(dateTime) AS latest, count(*) AS total,
  count(DISTINCT bidder) AS bidders, count(DISTINCT auction) FILTER (WHERE price < 10000) AS cheap
FROM bid GROUP BY channel, CAST(dateTime AS DATE)
-- q17
SELECT auction, CAST(dateTime AS DATE) AS day, count(*) AS total, count(*) FILTER (WHERE price < 10000) AS rank1,
  min(price) AS low, max(price) AS high, avg(price) AS mean, sum(price) AS s
FROM bid GROUP BY auction, CAST(dateTime AS DATE)
-- q18
SELECT auction, bidder, price, channel, dateTime FROM (
  SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY dateTime DESC, price) AS r FROM bid) q
WHERE r <= 1
-- q19
SELECT auction, bidder, price, r FROM (
  SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC, bidder, dateTime) AS r FROM bid) q
WHERE r <= 10
-- q20
SELECT b.auction, bidder, price, b.dateTime, itemName, seller, category FROM bid b JOIN auction a ON b.auction = a.id
WHERE a.category = 10
-- q21
SELECT auction, bidder, price, channel,
  CASE WHEN lower(channel) = 'apple' THEN '0' WHEN lower(channel) = 'google' THEN '1'
       WHEN lower(channel) = 'facebook' THEN '2' WHEN lower(channel) = 'baidu' THEN '3'
       ELSE split_part(url, 'channel_id=', 2) END AS channel_id
FROM bid WHERE url LIKE '%&channel_id=%' OR lower(channel) IN ('apple', 'google', 'facebook', 'baidu')
-- q22
SELECT auction, bidder, price, channel, split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2,
  split_part(url, '/', 6) AS dir3
FROM bid
-- q23
SELECT bidder, price, channel, p.id AS person_id, name, city, itemName, reserve, seller FROM bid b
JOIN person p ON p.id = b.bidder JOIN auction a ON a.seller = b.bidder
