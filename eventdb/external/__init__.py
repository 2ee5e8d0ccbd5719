"""What lies outside the database and FROM can read: files, Python objects; and what COPY writes."""
