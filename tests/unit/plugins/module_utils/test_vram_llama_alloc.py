# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compute buffers of small graphs, whose sizes can be worked out by hand: who takes whose place, what is copied to where."""

from __future__ import annotations

from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_alloc import HOST, Graph, Size, buffers


def bytes_(count: int) -> Size:
    return ((count, "one"),)


def sizes(graph: Graph, pipeline: bool = False, alignment: int = 1) -> dict[int, int]:
    return buffers(graph.plan(pipeline), {"one": 1, "tokens": 10}, alignment)


def test_what_is_read_last_makes_room_for_what_comes_later() -> None:
    graph = Graph()
    first = graph.make(bytes_(100), place=0)
    second = graph.make(bytes_(50), first, place=0)
    third = graph.make(bytes_(80), second, place=0)  # where the first was
    graph.run(third)
    assert sizes(graph) == {0: 150}


def test_the_tightest_hole_is_taken() -> None:
    graph = Graph()
    wide, wall, narrow, end = (graph.make(bytes_(size), place=0) for size in (100, 1, 40, 1))
    graph.run(wide, wall, narrow, end)
    after = graph.make(bytes_(1), wide, narrow, place=0)  # two holes: 100 and 40
    graph.run(after, graph.make(bytes_(40), after, place=0), graph.make(bytes_(99), after, place=0))
    graph.run(graph.make(bytes_(1), wall, end, place=0))
    assert sizes(graph) == {0: 142 + 1}  # had the 40 gone into the wide hole, the 99 would not have found one


def test_a_reusable_result_takes_its_only_readers_source() -> None:
    graph = Graph()
    first = graph.make(bytes_(100), place=0)
    graph.run(graph.make(bytes_(100), first, place=0, reusable=True))
    assert sizes(graph) == {0: 100}


def test_a_source_that_is_read_again_keeps_its_place() -> None:
    graph = Graph()
    first = graph.make(bytes_(100), place=0)
    second = graph.make(bytes_(100), first, place=0, reusable=True)
    graph.run(second)
    graph.run(graph.make(bytes_(10), first, second, place=0))
    assert sizes(graph) == {0: 210}


def test_sizes_are_sums_of_units_and_aligned() -> None:
    graph = Graph()
    graph.run(graph.make(((3, "tokens"), (1, "one")), place=0))
    assert sizes(graph) == {0: 31}
    assert sizes(graph, alignment=32) == {0: 32}


def test_an_input_is_copied_to_each_device_that_reads_it() -> None:
    graph = Graph()
    mask = graph.input(bytes_(1000))
    first = graph.make(bytes_(10), mask, place=0)
    graph.run(graph.make(bytes_(10), first, mask, place=1))
    assert sizes(graph) == {HOST: 1000, 0: 1010, 1: 1020}  # the second device has a copy of the first's result, too


def test_a_copy_of_a_view_is_as_large_as_the_view() -> None:
    graph = Graph()
    whole = graph.make(bytes_(1000), place=0)
    graph.run(graph.make(bytes_(10), graph.view(whole, bytes_(30)), place=1))
    assert sizes(graph) == {0: 1000, 1: 40}


def test_a_pipeline_has_all_inputs_and_copies_four_times() -> None:
    graph = Graph()
    mask = graph.input(bytes_(1000))
    first = graph.make(bytes_(10), mask, place=0)
    graph.run(graph.make(bytes_(10), first, place=1))
    assert sizes(graph, pipeline=True) == {HOST: 4000, 0: 4010, 1: 50}


def test_operations_without_weights_run_with_their_neighbours() -> None:
    graph = Graph()
    embedded = graph.make(bytes_(10), place=HOST)
    normed = graph.make(bytes_(10), embedded)  # goes to the device behind it
    first = graph.make(bytes_(500), normed, place=0)
    summed = graph.make(bytes_(500), first)  # stays on the device before it
    graph.run(graph.make(bytes_(10), summed, place=1))
    assert sizes(graph) == {HOST: 10, 0: 1020, 1: 510}  # on device 0: a copy, its norm, the product and the sum


def test_weights_from_main_memory_are_there_one_at_a_time() -> None:
    graph = Graph()
    current = graph.make(bytes_(10), place=0)
    for _time in range(3):
        current = graph.make(bytes_(10), graph.stored(bytes_(700), HOST), current, place=0)
    graph.run(current)
    assert sizes(graph) == {0: 720}


def test_devices_that_do_the_same_share_a_program() -> None:
    graph = Graph()
    current = graph.make(bytes_(10), place=0)
    for place in (1, 2, 3, 4):
        current = graph.make(bytes_(20), graph.make(bytes_(20), current, place=place), place=place)
    graph.run(current)
    steps = graph.plan(pipeline=False).steps
    assert steps[2] is steps[3]
    assert steps[3] != steps[4]  # nobody reads the last result
