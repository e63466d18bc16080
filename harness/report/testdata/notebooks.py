# The loading steps of the authors' notebooks, on the table of a report: what they
# load, the columns and selections they use, and the medians they draw, as JSON.
# Arguments: the series, the pickle, and the selections as JSON.
import json
import pickle
import sys

import numpy as np
import pandas as pd

OFFSET = 0.3133
series, path, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

with open(path, "rb") as f:
    df = pickle.load(f)
assert df.equals(pd.read_pickle(path))
answer = {"rows": len(df), "types": {c: str(t) for c, t in df.dtypes.items()}}


def heatmaps(df, rows, columns, select, before, after):
    p, t = np.zeros((len(rows), len(columns))), np.zeros((len(rows), len(columns)))
    for i, r in enumerate(rows):
        of = df.query(select[0].format(r))
        for j, c in enumerate(columns):
            p[i, j] = of[before.format(c)].median()
            to = of.query(select[1].format(c))
            t[i, j] = to[after.format(c)].median() if len(to) > 0 else p[i, j]
    return p.tolist(), t.tolist()


if series == "defocus":
    assert len(df.query("transfer_defocus != 0.0")) < len(df)
    rates = " or ".join(
        f"(pretrain_lr == {p} and transfer_lr == {t})"
        for p in options["pretrain_lr"] for t in options["transfer_lr"]
    )
    shown = df.query(
        f"N_tl_training_points in {options['images']} and freeze_option in {['none', 'encoder', 'decoder']}"
    ).query(rates)
    answer["shown"] = len(shown)
    answer["before"], answer["after"] = heatmaps(
        shown, options["rows"], options["columns"],
        ("pretrain_defocus == {}", "transfer_defocus == {}"),
        "best_pretrain_val_{}", "best_transfer_performance_{}",
    )
    assert (shown["best_target_transfer_performance"] > 0).all()
elif series == "baseline":
    part = df.query(f"lr == {options['lr']} and major == {options['major']} and minor == {options['minor']}")
    answer["shown"] = len(part)
    for n in options["images"]:
        one = part.query(f"N_major == {n}")
        assert one["baseline_major_perf"].median() > 0 and one["baseline_minor_perf"].median() > 0
elif series == "noise":
    for i, row in df.iterrows():
        history = row["pretrain_history"]
        best = np.argmin(history[f"validation_{row['pretrain_dose']}"])
        for stage in "pretrain", "transfer":
            for k, v in row[f"{stage}_history"].items():
                if "validation" in k:
                    df.loc[i, f"best_{stage}_performance_{k}"] = np.array(v)[best]
    shown = df.query(f"freezing_mode in {['none', 'encoder', 'decoder']}")
    answer["shown"] = len(shown)
    answer["before"], answer["after"] = heatmaps(
        shown, options["rows"], options["columns"],
        ("pretrain_dose == {}", "transfer_dose == {}"),
        "best_pretrain_performance_validation_{}", "best_transfer_performance_validation_{}",
    )
elif series == "structure":
    shown = df.query(f"freezing_mode in {['none', 'encoder', 'decoder']}")
    answer["shown"] = len(shown)
    before, after = "best_pretrain_performance_validation_{}", "best_transfer_performance_validation_{}"
    p, t = heatmaps(
        shown, options["rows"], options["columns"],
        ("pretrain_structure == '{}'", "transfer_structure == '{}'"), before, after,
    )
    answer["before"], answer["after"] = (np.array(p) - OFFSET).tolist(), (np.array(t) - OFFSET).tolist()
    sizes = shown.melt(
        id_vars=["Pretrain Size", "Transfer Size"],
        value_vars=[before.format(c) for c in options["columns"] if "small" in c],
    )
    assert set(sizes["Pretrain Size"]) == {"Small", "Large"}, set(sizes["Pretrain Size"])
    assert sizes["value"].min() > OFFSET
print(json.dumps(answer).replace("NaN", "null"))
