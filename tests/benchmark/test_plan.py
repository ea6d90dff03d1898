"""Which jobs a benchmark has, and what it refuses before it starts."""

import pytest

from src.benchmark.plan import plan_jobs
from src.errors import UserError

RECIPE = ("unet2d_em", None, ["image_size=[64,64]", "base_channels=4"])


def test_a_job_for_each_combination():
    jobs = plan_jobs(*RECIPE, ["train", "infer"], ["graph", "eager"], ["fp32", "O2"], [1, 4], warmup=2, iterations=5)
    assert len(jobs) == 16 and len({job.name for job in jobs}) == 16
    assert jobs[0].name == "train-graph-fp32-ranks1-batch1"
    assert [job.name for job in jobs[:4]] == [f"train-{mode}-{precision}-ranks1-batch1"
                                              for precision in ("fp32", "O2") for mode in ("graph", "eager")]
    last = jobs[-1]
    assert last.settings() == {"phase": "infer", "mode": "eager", "precision": "O2", "ranks": 1, "batch_size": 4}
    assert (last.recipe["batch_size"], last.recipe["amp_level"], last.recipe["base_channels"]) == (4, "O2", 4)
    assert (last.warmup, last.iterations, last.refused) == (2, 5, "")


def test_several_ranks_are_compared_with_one_and_the_recipe_gives_the_batch():
    jobs = plan_jobs("vnet_promise12", None, [], ["train"], ["graph"], ["fp32"], [], device_num=2)
    assert [(job.ranks, job.batch_size) for job in jobs] == [(1, 4), (2, 4)]


def test_what_the_rules_exclude_is_refused_and_the_rest_measured():
    jobs = plan_jobs(*RECIPE, ["infer"], ["graph"], ["fp32", "bf16"], [1])
    assert jobs[0].refused == "" and "'amp_level': found 'bf16'" in jobs[1].refused
    jobs = plan_jobs(*RECIPE, ["infer"], ["graph", "eager"], ["O2"], [1], device_target="Ascend", graph_kernels=True)
    assert [job.refused for job in jobs] == ["", "graph kernels need graphs"]


@pytest.mark.parametrize(("changes", "further", "message"), [
    ({"phases": ["test"]}, {}, "--phases: found test, expected some of train,infer"),
    ({"modes": []}, {}, "--modes: found nothing"),
    ({"precisions": ["fp32", "fp16"]}, {}, "--precisions: found fp32,fp16"),
    ({"batch_sizes": [0]}, {}, "--batch_sizes: found 0"),
    ({}, {"device_num": 0}, "--device_num: found 0"),
    ({}, {"warmup": 0}, "--warmup: found 0, expected 1"),
    ({}, {"iterations": 0}, "--iterations: found 0"),
    ({}, {"graph_kernels": True}, "--graph_kernels: found device target CPU"),
    ({"overrides": ["epoch=3"]}, {}, "did you mean 'epochs'"),
])
def test_wrong_settings(changes, further, message):
    given = {"recipe_name": "unet2d_em", "config_file": None, "overrides": [], "phases": ["train"], "modes": ["graph"],
             "precisions": ["fp32"], "batch_sizes": [1]}
    with pytest.raises(UserError, match=message):
        plan_jobs(**given | changes, **further)
