"""Tests that are left out under Wine, each with the reason. On a real Windows they run. Never a whole folder or file.

A process takes a second of a core to start there, so many small servers make a run long. What is left out to save time runs with
``python dev.py test-windows --all``.
"""

from __future__ import annotations

_SEQUENCE = "which batch comes is decided without a call of the system; other cases of the same test or class run"
_PURE = "many examples, and no call of the system in them"
_SOCKETS = "it is about blocks and leases, and the case with mapped memory, which has more to it, runs"
_WORDS = "what is said is put together without a call of the system; other cases of the same test or class run"

_LINES = "what a line can do is the relay's affair, in Python; other directions of the same faults run"
_CHAOS = "a program of minutes with a hundred processes; each of its faults has a test of its own in tests/system, which runs"

_BENCHMARKS = "a measurement in small of many processes; nothing is measured under Wine, and the product's own paths have their tests"

_CHECK, _RESUME, _SERVE, _STATUS = (f"tests/system/test_{name}.py::" for name in ("check", "resume", "serve_errors", "status"))
_WRONG = _SERVE + "TestSource::test_the_wrong_thing_or_the_wrong_arguments"

REASONS: dict[str, str] = {
    "tests/system/test_fuzz_node.py::test_the_workers_port": "Wine's list of listening sockets doesn't say whose they are",
    "tests/system/test_fuzz_node.py::test_a_client_of_a_good_node_and_a_fake_one[huge parts]": (
        "Wine keeps 256 MB of page tables for each TiB that it was asked for and refused"
    ),
}
"""What can't work. Test id as pytest prints it, or its beginning up to a bracket -> why."""

TO_SAVE_TIME: dict[str, str] = {
    "tests/test_benchmarks.py::test_a_tiny_run": _BENCHMARKS,
    "tests/test_benchmarks.py::TestCompare::test_a_tiny_run": _BENCHMARKS,
    "tests/test_benchmarks.py::TestSmallRuns::test_recover": _BENCHMARKS,
    "tests/test_benchmarks.py::TestSmallRuns::test_scale": _BENCHMARKS,
    "tests/test_benchmarks.py::TestSmallRuns::test_start": _BENCHMARKS,
    "tests/chaos/test_chaos.py::test_a_short_run": _CHAOS,
    "tests/chaos/test_chaos.py::test_it_can_fail": _CHAOS,
    "tests/chaos/test_chaos.py::test_it_notices_what_is_left_behind": _CHAOS,
    "tests/client/test_stream_window.py::test_streams_in_any_interleaving": _PURE,
    "tests/client/test_window.py::test_any_interleaving": _PURE,
    "tests/server/test_copies.py::test_an_item_does_not_depend_on_what_was_made_before": _PURE,
    "tests/server/test_copies.py::test_at_most_two_copies_per_session": _PURE,
    "tests/server/test_dispatch.py::test_any_order_of_events": _PURE,
    "tests/server/test_cli.py::TestExitCodes::test_3_nothing_there[data.py:gone]": _WORDS,
    "tests/server/test_cli.py::TestExitCodes::test_3_nothing_there[gone.pkg:train]": _WORDS,
    "tests/server/test_cli.py::TestExitCodes::test_5_workers_that_keep_dying": "tests/system/test_serve_errors.py has it, too",
    _CHECK + "TestWhatIsRegretted::test_float64": _WORDS,
    _CHECK + "TestWhatIsRegretted::test_mostly_constant": _WORDS,
    _CHECK + "TestWhatIsRegretted::test_nothing_about_pictures_as_they_are": _WORDS,
    _CHECK + "TestWhatItIs::test_one_that_is_told_its_seed": _WORDS,
    _CHECK + "TestWhatItIs::test_one_without_generators_and_shorter_than_what_is_drawn": _WORDS,
    _CHECK + "TestWhatItIs::test_what_comparing_its_copies_has_shown[Exact-parallel: ]": _WORDS,
    _CHECK + "TestWhatItIs::test_what_comparing_its_copies_has_shown[Augmented-words1]": _WORDS,
    _CHECK + "TestWhatItIs::test_what_comparing_its_copies_has_shown[Lazy-warmed: ]": _WORDS,
    _CHECK + "TestWhatItIs::test_copies_that_disagree_and_may_not": _WORDS,
    _CHECK + "TestWhatCanNotBeServed::test_a_second_pass_that_raises": _WORDS,
    _CHECK + "TestWhatCanNotBeServed::test_what_can_not_be_sent": _WORDS,
    _CHECK + "TestWhatCanNotBeServed::test_nothing_comes[empty-the first pass gave no batch]": _WORDS,
    _CHECK + "TestWhatCanNotBeServed::test_nothing_comes[NoBatches-it has no batches, its length is 0]": _WORDS,
    _CHECK + "TestWhatCanNotBeServed::test_nothing_comes[nothing-data.py has no 'nothing']": _WORDS,
    _CHECK + "TestWhatCanNotBeServed::test_what_was_typed_wrong[arguments1-2-write data.py:NAME]": _WORDS,
    _CHECK + "TestWhatCanNotBeServed::test_what_was_typed_wrong[arguments2-3-got an unexpected argument 'size']": _WORDS,
    _CHECK + "TestWhatCanNotBeServed::test_what_was_typed_wrong[arguments3-2---workers 0]": _WORDS,
    _CHECK + "TestWhatCanNotBeServed::test_what_was_typed_wrong[arguments4-2---batches 0]": _WORDS,
    _CHECK + "TestWhatCanNotBeServed::test_what_was_typed_wrong[arguments5-2---timeout -1]": _WORDS,
    _CHECK + "TestWhatCanNotBeServed::test_what_was_typed_wrong[arguments6-2-can't take the argument 'n']": _WORDS,
    _RESUME + "TestIndexed::test_nothing_is_made_again_by_a_fresh_server[1]": _SEQUENCE,
    _RESUME + "TestIndexed::test_nothing_is_made_again_by_a_fresh_server[12]": _SEQUENCE,
    _RESUME + "TestIndexed::test_nor_by_one_that_is_warm": _SEQUENCE,
    _RESUME + "TestIndexed::test_in_a_share": _SEQUENCE,
    _RESUME + "TestSharded::test_the_rest_of_a_run[ready-augmented-4-auto]": _SEQUENCE,
    _RESUME + "TestSharded::test_the_rest_of_a_run[ready-augmented-4-tcp]": _SEQUENCE,
    _RESUME + "TestSharded::test_the_rest_of_a_run[fixed-augmented-20000-tcp]": _SEQUENCE,
    _RESUME + "TestSharded::test_the_rest_of_a_run[fixed-skipping-None-auto]": _SEQUENCE,
    _RESUME + "TestSharded::test_the_rest_of_a_run[fixed-skipping-None-tcp]": _SEQUENCE,
    _RESUME + "TestSharded::test_how_many_are_made_to_get_there": _SEQUENCE,
    _RESUME + "TestFixed::test_the_same_sequence_on_every_run[1]": _SEQUENCE,
    _RESUME + "TestFixed::test_the_same_sequence_on_every_run[3]": _SEQUENCE,
    _RESUME + "TestFixed::test_two_nodes_and_steps": _SEQUENCE,
    _SERVE + "TestUsage::test_what_can_not_work[arguments0-write augment.py:NAME]": _WORDS,
    _SERVE + "TestUsage::test_what_can_not_work[arguments1-have no names: write train=x.py:a val=y.py:b]": _WORDS,
    _SERVE + "TestUsage::test_what_can_not_work[arguments2-is for a target 'train'; there is 'default']": _WORDS,
    _SERVE + "TestUsage::test_what_can_not_work[arguments3-'lots' is not a size: write for example 512MiB]": _WORDS,
    _SERVE + "TestUsage::test_what_can_not_work[arguments4---workers 0]": _WORDS,
    _SERVE + "TestUsage::test_half_of_the_keys": _WORDS,
    _SERVE + "TestSource::test_something_is_missing[nomodule.anywhere:x-there is no module 'nomodule']": _WORDS,
    _SERVE + "TestSource::test_something_is_missing[augment.py:trian-did you mean 'train'?]": _WORDS,
    _SERVE + "TestSource::test_something_is_missing[augment:nothing-augment has no 'nothing'; it has: train]": _WORDS,
    _SERVE + "TestSource::test_something_is_missing[json:x.y-json has no 'x']": _WORDS,
    _WRONG + "[arguments0-got an unexpected argument 'm']": _WORDS,
    _WRONG + "[arguments1-did you mean 'size'?]": _WORDS,
    _WRONG + "[arguments3-which isn't called, so it can't take the argument 'n']": _WORDS,
    _WRONG + "[arguments4-which is one batch or a whole data set]": _WORDS,
    _WRONG + "[arguments5-has no 'SOURCES']": _WORDS,
    _WRONG + "[arguments6-the module numpy]": _WORDS,
    _SERVE + "TestSource::test_an_error_while_it_is_built": _WORDS,
    _SERVE + "TestSource::test_sys_exit_at_import": _WORDS,
    "tests/system/test_batch_timeout.py::test_bad_batches_in_a_row": _SEQUENCE,
    "tests/system/test_batch_timeout.py::test_an_item_that_was_made_to_compare_the_copies": _SEQUENCE,
    "tests/system/test_connect.py::TestBehindARelay::test_the_server_is_killed_and_comes_back[sharded]": _SEQUENCE,
    "tests/system/test_connect.py::TestVersions::test_a_server_of_another_version[other_fields]": _WORDS,
    "tests/system/test_connect.py::TestVersions::test_a_client_of_another_version[other_fields]": _WORDS,
    "tests/system/test_crash.py::TestLoading::test_replacements_that_never_load[stream]": _SEQUENCE,
    "tests/system/test_divergence.py::test_every_sample_once_whatever_the_source[Augmented-not reproducible]": _SEQUENCE,
    "tests/system/test_divergence.py::test_every_sample_once_whatever_the_source[Lazy-warmed]": _SEQUENCE,
    "tests/system/test_drain.py::test_others_make_what_it_has_not_begun[tcp]": _SOCKETS,
    "tests/system/test_dying.py::test_over_a_batch_that_is_made[writing-tcp]": _SOCKETS,
    "tests/system/test_dying.py::test_over_a_batch_that_is_made[reporting-tcp]": _SOCKETS,
    "tests/system/test_greedy.py::test_who_asks_and_never_reads[small]": _SEQUENCE,
    "tests/system/test_hedging.py::test_one_server_stops_and_another_one_is_asked[tcp]": _SOCKETS,
    "tests/system/test_network.py::TestSilence::test_in_mid_pass[up-half_open]": _LINES,
    "tests/system/test_network.py::TestSilence::test_in_mid_pass[down-half_open]": _LINES,
    "tests/system/test_network.py::TestSilence::test_in_mid_pass[down-stop_reading]": _LINES,
    "tests/system/test_serve.py::TestStart::test_the_seed_makes_the_batches": _SEQUENCE,
    "tests/system/test_skip.py::test_code_that_raises": _SEQUENCE,
    "tests/system/test_skip.py::test_a_stream": _SEQUENCE,
    "tests/transport/test_batches.py::TestMemory::test_holding_every_batch_does_not_stop_the_server[tcp]": _SOCKETS,
    "tests/transport/test_batches.py::TestMemory::test_blocks_come_back[tcp]": _SOCKETS,
    "tests/transport/test_sessions.py::test_a_client_that_slept_through_its_lease[tcp]": _SOCKETS,
    _STATUS + "TestKeys::test_who_is_not[options0-4-wants keys: give --keys]": _WORDS,
    _STATUS + "TestKeys::test_who_is_not[options2-4-has another key than --server-key says]": _WORDS,
    _STATUS + "TestKeys::test_who_is_not[options3-2-belong together]": _WORDS,
    _STATUS + "TestKeys::test_who_is_not[options4-2-belong together]": _WORDS,
    _STATUS + "TestKeys::test_who_is_not[options5-2-holds no secret key]": _WORDS,
    _STATUS + "test_what_can_not_work[arguments0-2-write tcp://HOST:PORT]": _WORDS,
    _STATUS + "test_what_can_not_work[arguments1-2-use the port that the server printed]": _WORDS,
    _STATUS + "test_what_can_not_work[arguments2-2---timeout 0]": _WORDS,
    _STATUS + "test_what_can_not_work[arguments3-2---timeout nan]": _WORDS,
}
"""What is proven enough on Linux, in the same form."""
