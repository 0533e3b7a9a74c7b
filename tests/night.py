"""The tests that `make test` leaves to `make night`: slow ones that have seldom failed.

A row names a test function. ALL of its cases run at night, or all but one in `n`: the sample stays in
`make test`. The comment says what still watches over the same code in `make test`.
"""

from __future__ import annotations

ALL = 0

NIGHT = {
    # Starting processes: one short case of each kind of command stays.
    "test_cluster.py::test_a_lost_node_costs_its_shard": ALL,  # the other tests of test_cluster.py
    "test_journal.py::test_kernels_that_end_no_call": ALL,  # test_a_kernel_that_kills_its_process_first
    "test_cli.py::test_a_kernel_that_kills_its_process": ALL,  # the same with --first
    "test_cli.py::test_could_not_be_checked": 3,
    "test_cli.py::test_a_right_kernel": ALL,  # make check-all
    "test_cli.py::test_a_wrong_kernel": ALL,  # test_a_kernel_that_kills_its_process_first, make check-all
    "test_cli.py::test_a_bare_kernel_first": ALL,  # make check-all
    "test_cli.py::test_several": ALL,  # test_could_not_be_checked, test_python.py
    "test_cli.py::test_beside_folders_of_the_same_names": ALL,  # test_laws_of_a_foreign_suite
    "test_cli.py::test_a_file_that_ends_its_process": ALL,  # test_what_cannot_be_loaded
    "test_fused.py::test_a_wrong_kernel_is_found_small_and_replayed": ALL,  # make check-all, test_replay.py
    "test_fused.py::test_what_cannot_be_called_is_said_before_any_law": 3,
    "test_relax.py::test_a_kernel_that_dies_takes_nothing_along": ALL,  # test_a_kernel_that_hangs
    "test_repro.py::test_no_result": 4,
    "test_corpus.py::test_what_is_wrong_with_an_entry_is_told_first": 2,
    "test_corpus.py::test_a_known_failure_passes_as_known": ALL,  # ..._that_is_fixed_is_an_error
    "test_first_mistake.py::test_check_says_it_in_a_line": 4,
    "test_corpus.py::test_the_ini_names_folders_that_may_not_be_there_yet": ALL,  # ..._is_tried
    "test_first_mistake.py::test_what_cannot_be_loaded": 3,
    "test_first_mistake.py::test_pytest_fails_once": 3,
    "test_first_mistake.py::test_so_do_the_other_commands": ALL,  # test_check_says_it_in_a_line
    "test_first_mistake.py::test_the_other_dtypes_are_judged": ALL,  # test_run.py
    "test_fuzz.py::test_a_lost_worker_a_killed_run_and_the_rest": ALL,  # test_found_once_and_small
    "test_fuzz.py::test_what_was_not_yet_small_is_not_lost": ALL,  # test_found_once_and_small
    "test_fuzz.py::test_deaths_and_hangs_are_findings": ALL,  # test_replay.py, test_causes.py
    "test_fuzz.py::test_interrupted_it_reports": ALL,  # test_found_once_and_small
    "test_fuzz.py::test_time_is_kept": ALL,  # test_schedule.py
    "test_fuzz.py::test_not_really_fuzzed_is_no_success": 3,
    # The simulated accelerator: its laws in one process stay.
    "test_accelerator.py::test_what_the_device_lacks_is_not_run": ALL,  # test_laws_hold_or_say_what_...
    "test_accelerator.py::test_check_runs_every_law_on_the_device": ALL,  # test_laws_hold_or_say_what_...
    "test_accelerator.py::test_a_failure_is_shrunk_kept_and_replayed": ALL,  # test_wrong_kernels_fall_...
    "test_accelerator.py::test_fuzzing_of_two_devices": ALL,  # test_fuzz.py
    # A command beside the same from Python: the pages of check and replay stay.
    "test_python.py::test_isolated": ALL,  # test_isolated_with_promises
    "test_python.py::test_the_page_of_a_replay": ALL,  # test_a_function_of_no_file
    "test_python.py::test_the_readme": ALL,  # test_the_page_is_that_of_the_command
    "test_python.py::test_as_many_cases": ALL,  # test_a_time_that_is_too_short
    "test_python.py::test_the_page_of_a_grade": ALL,  # test_grade.py
    # A command for each kernel that cheats: one of them stays, and the tests of the process and of the file.
    "test_gate.py::test_a_cheat_is_refused": 16,
    "test_gate.py::test_right_on_sparse_inputs_alone": ALL,  # test_a_cheat_is_refused
    "test_gate.py::test_wrong_at_a_shape_of_the_file": ALL,  # test_a_cheat_is_refused
    "test_gate.py::test_sizes_that_it_refuses": ALL,  # test_a_cheat_is_refused
    "test_gate.py::test_a_right_kernel_passes": ALL,  # test_states_gradients_and_exceptions
    "test_suite.py::test_a_foreign_repository": ALL,  # test_laws_of_a_foreign_suite
    "test_suite.py::test_a_kernel_that_dies": ALL,  # test_journal.py
    "test_suite.py::test_without_the_plugin": ALL,  # test_laws_of_a_foreign_suite
    "test_workflows.py::test_the_desk_tries_what_the_night_found": ALL,  # test_corpus.py
    "test_fused.py::test_a_deadly_kernel_has_its_repro": ALL,  # test_repro.py::test_deadly
    "test_notebook.py::test_the_notebook_shows_what_it_prints": ALL,  # make check-all runs it
    "test_regime.py::test_table_adds_up_what_all_workers_tried": ALL,  # the table of one worker
    "test_replay.py::test_the_time_limit_is_of_one_try": ALL,  # test_a_kernel_that_dies_or_hangs
    "test_repro.py::test_deadly": 3,
    # Triton's interpreter: checks and grades of one small kernel stay.
    "test_interpret.py::test_grade": ALL,  # test_a_right_kernel, by check; test_grade.py
    "test_interpret.py::test_fuzz": ALL,  # test_a_right_kernel, by check
    "test_interpret.py::test_pytest": ALL,  # test_a_right_kernel, by check
    "test_interpret.py::test_a_kernel_that_reads_past_the_end": ALL,  # test_the_repairs
    "test_interpret.py::test_a_kernel_that_rounds_its_terms": ALL,  # test_a_right_kernel
    "test_interpret.py::test_a_repair_that_does_not_work": 4,
    "test_triton.py::test_the_kernels_keep_their_laws": ALL,  # CUDA's own tests; test_interpret.py
    # Ladders and pictures of every kernel of the zoos: each law and each picture has its own tests.
    "test_zoo.py::test_sound_is_not_accused": 18,
    "test_fused_zoo.py::test_sound_is_not_accused": 18,
    "test_mutants.py::test_what_it_leaves_shows_it": 16,
    "test_relax.py::test_a_stripped_style_gets_its_contract": 4,
    "test_fused_grade.py::test_the_grade_of_a_delta_rule_is_its_chunk": 4,
    "test_fused_grade.py::test_the_grade_is_what_the_source_says": 4,
    "test_grade.py::test_the_built_in_three": 4,
    "test_law_transforms.py::test_law_compiled": 4,
}


def at_night(function: str, number: int) -> bool:
    """Return whether `make test` leaves case `number` of a test function to the night."""
    if function not in NIGHT:
        return False
    sample = NIGHT[function]
    return sample == ALL or number % sample != 0
