"""The fault matrix: what may go wrong under one database on one machine, and the tests in which it does.

    C crash   E error   R rot   P pause and time   S space and resources   O operator

In each of these tests the fault is injected and counted, or its trace is asserted (an exit by signal, an error that
only it raises): one that did not happen fails the test. `test_matrix.py` holds the list to the tests that exist.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A fault, and `path::test` of each test in which it happens. Paths are below tests/."""

    fault: str
    tests: tuple[str, ...]


SWEEP = "crash/test_sweep.py::test_a_failing_call_or_a_kill_at_it_loses_doubles_and_breaks_nothing"
SWEEP_ALL = "crash/test_sweep.py::test_campaign_of_every_call"
IO = "storage/test_io_errors.py::"

MATRIX = {
    "C1": Row(
        "SIGKILL at a random time, in every durability mode",
        (
            "crash/test_kill.py::test_a_killed_writer_loses_nothing_acknowledged",
            "crash/test_kill.py::test_campaign_of_kills",
            "crash/test_storm.py::test_stopped_and_killed_processes_break_no_rule_of_the_log",
        ),
    ),
    "C2": Row("SIGKILL at the n-th system call on storage", (SWEEP, SWEEP_ALL)),
    "C3": Row(
        "SIGKILL inside recovery, again and again",
        (
            "crash/test_sweep.py::test_a_recovery_that_is_killed_again_and_again_converges",
            "storage/test_simulation.py::test_every_crash_leaves_what_was_promised",
            "storage/test_recovery.py::test_recovering_after_a_killed_process_may_lose_power_anywhere",
        ),
    ),
    "C4": Row(
        "power cut, seen by a real file system",
        (
            "crash/test_powercut.py::test_commit_mode_loses_nothing_acknowledged",
            "crash/test_powercut.py::test_the_promises_hold_on_xfs",
            "crash/test_powercut.py::test_batches_that_are_flushed_beside_their_record_lose_nothing_acknowledged",
            "crash/test_powercut.py::test_other_modes_lose_only_the_newest_commits",
        ),
    ),
    "C5": Row(
        "power cut that leaves any part of what was not flushed, sectors torn",
        (
            "storage/test_simulation.py::test_every_crash_leaves_what_was_promised",
            "storage/test_simulation.py::test_many_crashes_leave_what_was_promised",
        ),
    ),
    "C6": Row(
        "cut or kill while a database is created",
        (
            SWEEP,
            "storage/test_recovery.py::test_a_database_whose_creator_was_killed_is_found_after_a_power_loss",
            "storage/test_simulation.py::test_every_crash_leaves_what_was_promised",
        ),
    ),
    "C7": Row(
        "cut or kill while segments roll, are sealed, trimmed, compacted",
        (
            SWEEP,
            "storage/test_retention.py::test_a_crash_at_any_operation_of_trimming_keeps_the_start_and_brings_nothing_back",
            "storage/test_recovery.py::test_a_power_cut_while_the_journal_rolls_leaves_an_openable_database",
            "storage/test_sealing.py::test_a_killed_sealer_leaves_every_row_in_its_place",
            "storage/test_keyed.py::test_a_table_survives_crashes_as_a_prefix_of_its_commits",
        ),
    ),
    "C8": Row(
        "a writer dies inside its commit",
        ("storage/test_processes.py::test_a_killed_writer_holds_nobody_up_and_loses_nothing",),
    ),
    "C9": Row(
        "a reader is killed in its transaction",
        ("storage/test_readers.py::test_a_dead_reader_is_released_and_the_index_stops_growing",),
    ),
    "E1": Row(
        "EIO from a write",
        (SWEEP, IO + "test_a_failed_operation_is_a_typed_error_and_loses_nothing"),
    ),
    "E2": Row(
        "a flush fails, and the kernel drops what it should have written",
        (
            SWEEP,
            "storage/test_failed_flush.py::test_a_flush_that_failed_loses_nothing_that_anybody_was_told",
            IO + "test_a_failed_flush_stops_every_commit_until_the_database_is_reopened",
            "storage/test_processes.py::test_a_failed_flush_in_one_process_stops_the_others",
        ),
    ),
    "E3": Row(
        "EIO from a read: a bad sector",
        (SWEEP, "storage/test_bad_sector.py::test_a_bad_sector_is_a_typed_error_where_it_is_and_nowhere_else"),
    ),
    "E4": Row(
        "a short write",
        (SWEEP, SWEEP_ALL, IO + "test_short_writes_are_continued"),
    ),
    "E5": Row(
        "rename, unlink, mkdir, fallocate, ftruncate or the flush of a directory fails",
        (
            SWEEP,
            IO + "test_a_failed_operation_is_a_typed_error_and_loses_nothing",
            IO + "test_a_failure_while_creating_leaves_nothing_that_cannot_be_created_again",
            "storage/test_retention.py::test_a_failed_operation_of_trimming_loses_nothing_and_a_later_trim_completes_it",
        ),
    ),
    "E6": Row(
        "no descriptor left",
        ("storage/test_scarce.py::test_without_descriptors_calls_fail_typed_leak_none_and_work_when_they_return",),
    ),
    "E7": Row(
        "no memory left",
        ("storage/test_scarce.py::test_a_query_that_finds_no_memory_fails_typed_while_a_writer_goes_on",),
    ),
    "R1": Row(
        "a flipped bit anywhere",
        (
            "storage/test_rot.py::test_damage_is_refused_reported_or_harmless",
            "storage/test_rot.py::test_campaign_of_damage",
            "storage/test_sealed.py::test_every_flipped_bit_of_a_sealed_file_is_found_or_means_nothing",
            "storage/test_rot.py::test_a_flip_in_any_region_of_a_segment_is_found_by_a_deep_check_and_stops_a_backup",
        ),
    ),
    "R2": Row(
        "a flipped bit in the middle of the journal",
        (
            "storage/test_recovery.py::test_rot_in_the_middle_of_the_journal_is_refused_not_cut_and_can_be_read",
            "storage/test_recovery.py::test_damage_to_any_record_but_the_last_is_refused",
        ),
    ),
    "R3": Row(
        "a file cut short",
        (
            "storage/test_rot.py::test_damage_is_refused_reported_or_harmless",
            "storage/test_directory.py::test_a_file_cut_short_is_a_typed_error_or_mended",
        ),
    ),
    "R4": Row(
        "a block that is zero, swapped, stale or somebody else's",
        (
            "storage/test_rot.py::test_damage_is_refused_reported_or_harmless",
            "storage/test_rot.py::test_a_block_that_belongs_elsewhere_is_found",
        ),
    ),
    "R5": Row(
        "a file of another database, or of an older copy",
        (
            "storage/test_rot.py::test_a_file_of_another_database_is_refused_or_means_nothing",
            "storage/test_directory.py::test_an_index_of_another_copy_is_recognised",
        ),
    ),
    "R6": Row(
        "a damaged index",
        (
            "storage/test_rot.py::test_damage_is_refused_reported_or_harmless",
            "storage/test_repair.py::test_a_damaged_index_page_is_salvaged_around_and_nothing_wrong_comes_out",
        ),
    ),
    "R7": Row(
        "rot of cold rows, which nobody reads; the scrub is check(deep=True), whenever its user runs it",
        ("storage/test_rot.py::test_a_deep_check_finds_every_flip_in_cold_rows",),
    ),
    "P1": Row(
        "a stopped process holds the writer lock",
        (
            "storage/test_processes.py::test_a_stopped_holder_is_named_and_never_robbed",
            "crash/test_storm.py::test_stopped_and_killed_processes_break_no_rule_of_the_log",
        ),
    ),
    "P2": Row(
        "the lock file is removed or replaced",
        (
            "storage/test_directory.py::test_a_removed_lock_file_stops_the_writer",
            "storage/test_lock_file.py::test_a_second_process_with_another_lock_file_is_refused",
        ),
    ),
    "P4": Row(
        "the wall clock jumps",
        (
            "storage/test_clock.py::test_append_times_never_go_back_and_a_time_is_found_where_it_is",
            "storage/test_clock.py::test_waiting_for_the_lock_ends_by_the_monotonic_clock",
            "storage/test_clock.py::test_a_replaced_lock_file_is_noticed_whatever_the_clock_did",
            "storage/test_retention.py::test_a_clock_that_jumps_ahead_removes_nothing_until_it_has_been_believed",
            "storage/test_retention.py::test_a_clock_that_goes_back_removes_nothing_and_stops_nothing",
            "storage/test_retention.py::test_a_process_that_begins_with_a_clock_far_ahead_waits",
        ),
    ),
    "P5": Row(
        "a slow disk",
        (
            "storage/test_slow_disk.py::test_appends_wait_for_a_slow_flush_and_reads_do_not",
            "storage/test_slow_disk.py::test_a_producer_on_a_slow_disk_stops_taking_events_and_loses_none",
        ),
    ),
    "S1": Row(
        "a full disk",
        (
            SWEEP,
            "storage/test_full_disk.py::test_a_disk_that_fills_up_refuses_appends_kills_nobody_and_is_used_again",
            IO + "test_a_full_disk_refuses_appends_and_goes_on_when_there_is_room",
            "storage/test_sealed.py::test_a_full_disk_while_sealing_changes_nothing",
        ),
    ),
    "S2": Row(
        "a full disk in recovery, checkpoint or retention",
        (
            SWEEP,
            "storage/test_full_disk.py::test_a_killed_process_is_recovered_from_on_a_disk_without_a_free_byte",
            "storage/test_retention.py::test_a_full_disk_is_freed_with_the_help_of_the_reserve",
        ),
    ),
    "S3": Row(
        "a store into a mapping on a full disk",
        ("storage/test_full_disk.py::test_a_disk_that_fills_up_refuses_appends_kills_nobody_and_is_used_again",),
    ),
    "S4": Row(
        "no inodes, a quota, a read-only medium",
        (
            "storage/test_full_disk.py::test_a_disk_without_inodes_refuses_what_needs_a_file",
            IO + "test_a_full_disk_refuses_appends_and_goes_on_when_there_is_room",
            IO + "test_a_commit_the_index_cannot_take_did_not_happen",
            "storage/test_rights.py::test_a_read_only_medium_is_read_without_a_lock",
        ),
    ),
    "S5": Row(
        "the index's address space or table of readers is full",
        (
            "storage/test_index_growth.py::test_the_map_grows_in_every_process",
            "storage/test_index_growth.py::test_growth_waits_for_a_snapshot_which_stays_what_it_was",
            "storage/test_index_growth.py::test_a_transaction_larger_than_the_map_is_refused_once",
            "storage/test_readers.py::test_a_full_reader_table_of_dead_processes_is_cleared",
        ),
    ),
    "O1": Row(
        "several processes create one directory",
        ("storage/test_processes.py::test_processes_that_race_to_create_the_directory_share_one_database",),
    ),
    "O2": Row(
        "a copy is made while it is in use: by backup(), as plain copies are not supported",
        (
            "storage/test_backup.py::test_backups_under_load_are_prefixes_and_hold_what_was_committed_before",
            "storage/test_backup.py::test_an_interrupted_backup_leaves_the_old_one_or_refuses_to_open_and_can_be_run_again",
            "storage/test_rights.py::test_the_files_of_an_open_index_are_not_opened_again",
        ),
    ),
    "O3": Row(
        "another version of the format",
        (
            "storage/test_format_versions.py::test_a_newer_format_is_refused_by_every_door_and_not_touched",
            "storage/test_format_versions.py::test_there_is_one_format",
        ),
    ),
}

# Rows of the design's matrix that need several machines.
ELSEWHERE = ("P3", "N1", "N2", "N3", "N4", "N5", "N6")
COUNTS = {"C": 9, "E": 7, "R": 7, "P": 5, "N": 6, "S": 5, "O": 3}

SIMULATION = "storage/test_simulation.py::test_a_planted_bug_is_caught"
PLANTED = {
    "acknowledged before the flush": (
        SIMULATION,
        "crash/test_powercut.py::test_the_harness_notices_a_planted_bug",
    ),
    "directories not flushed": (SIMULATION,),
    "a record of bulk rows that counts without them": (SIMULATION,),
    "retry after a failed flush": ("storage/test_failed_flush.py::test_a_planted_bug_is_caught",),
    "cut at any bad checksum": ("storage/test_recovery.py::test_cutting_at_any_bad_checksum_would_be_noticed",),
    "checkpoint without a pin": (
        SIMULATION,
        "crash/test_powercut.py::test_the_harness_notices_a_planted_bug",
        "storage/test_recovery.py::test_folding_the_head_without_a_pin_would_be_noticed",
    ),
    "the journal goes on in an old file": (SIMULATION,),
    "a commit of the index is not announced": (SIMULATION,),
    "what cannot be looked at is absent": ("crash/test_sweep.py::test_the_sweep_notices_a_planted_bug",),
    "a commit in two parts": ("crash/test_kill.py::test_the_harness_notices_a_planted_bug",),
    "a reader that misses the head": ("crash/test_storm.py::test_the_storm_notices_a_planted_bug",),
    "files removed before the commit that says so": (
        "storage/test_retention.py::test_a_planted_bug_is_caught",
        "crash/test_sweep.py::test_the_sweep_notices_a_planted_bug",
    ),
}
