from __future__ import annotations

import argparse
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from malmm.jobs.cli import main
from malmm.jobs.files.example import example
from malmm.jobs.files.fields import KINDS, NOT_IN_STEPS, SPELLED, Options, step_model
from malmm.jobs.files.job import json_schema
from malmm.jobs.files.loading import LoadedJob, load
from malmm.jobs.files.problems import JobFileError
from malmm.pipeline.schema.cluster_use import ClusterUse
from malmm.pipeline.schema.config import AnnotateConfig, ExportConfig, IndexConfig, OptimizeConfig, Prompt
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.partition import Partition


def loaded(folder: Path, text: str, *sets: str, **environment: str) -> LoadedJob:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return load(str(path), sets=sets, environment=environment)


def faults(folder: Path, text: str, *sets: str, **environment: str) -> list[tuple[int, str]]:
    with pytest.raises(JobFileError) as caught:
        loaded(folder, text, *sets, **environment)
    return [(problem.line, problem.message) for problem in caught.value.problems]


def test_each_kind_becomes_the_settings_of_its_command(tmp_path: Path) -> None:
    job = loaded(
        tmp_path,
        """
        archive: a
        steps:
          - index: {sources: v, fps: 2, prompts: {who: 'Who is it?'}, resources: {decode_workers: 3}}
          - annotate:
              prompts: {where: {text: 'Where?', labels: [in, out]}}
              scope: video
          - optimize:
          - export: {format: csv, output: x.csv, prompts: [who]}
        """,
    )
    assert [step.config for step in job.steps] == [
        IndexConfig(
            ("v",), "a", fps=2.0, prompts=(Prompt("who", "Who is it?"),), resources=(("decode_workers", 3.0),)
        ),
        AnnotateConfig("a", (Prompt("where", "Where?", "classification", ("in", "out")),), ("video",)),
        OptimizeConfig("a"),
        ExportConfig("a", "csv", "x.csv", ("who",)),
    ]
    assert job.name == "job"


def test_a_prompt_has_a_schema_or_the_file_of_one(tmp_path: Path) -> None:
    (tmp_path / "kind.json").write_text('{"type": "object", "properties": {"kind": {"enum": ["a"]}}}')
    job = loaded(
        tmp_path,
        f"""
        archive: a
        steps:
          - index: {{sources: v, prompts: {{sky: {{text: 'Which?', schema: {{enum: [rain, sun]}}}}}}}}
          - annotate: {{prompts: {{e: {{text: 'When?', schema: {tmp_path}/kind.json, spans: true}}}}}}
        """,
    )
    [indexed, annotated] = [step.config.prompts for step in job.steps]
    assert indexed == (Prompt.typed("sky", "Which?", {"enum": ["rain", "sun"]}),)
    schema = {"type": "object", "properties": {"kind": {"enum": ["a"]}}}
    assert annotated == (Prompt.typed("e", "When?", schema, spans=True),)
    [(line, said)] = faults(
        tmp_path,
        """
        archive: a
        annotate:
          prompts:
            sky: {text: 'Which?', schema: {type: string}}
        """,
    )
    assert line == 5
    assert "it needs maxLength" in said


@pytest.mark.parametrize("kind", KINDS)
def test_the_options_of_a_command_are_the_fields_of_its_step(kind: str) -> None:
    parser = argparse.ArgumentParser()
    KINDS[kind].add_parser(parser.add_subparsers())
    needed = {"index": ["v", "--archive", "a"], "export": ["--archive", "a", "--format", "csv"]}
    parsed = vars(parser.parse_args([kind, *needed.get(kind, ["--archive", "a"])]))
    shown = {"json", "quiet", "verbose", "log_format", "run"}
    fields = step_model(kind).model_fields
    assert {SPELLED.get(name, name) for name in parsed.keys() - shown - {*NOT_IN_STEPS}} == fields.keys()
    schema = step_model(kind).model_json_schema()["properties"]
    for name, value in parsed.items():
        field = SPELLED.get(name, name)
        if field not in fields or fields[field].is_required():
            continue
        default = fields[field].get_default(call_default_factory=True)
        assert default == (value or type(default)() if isinstance(default, dict | list) else value)
    for name, options in Options(KINDS[kind]).declared.items():
        if "choices" in options and SPELLED.get(name, name) in schema:
            assert json.dumps(list(options["choices"])) in json.dumps(schema[SPELLED.get(name, name)])


def test_what_all_steps_use_of_a_cluster_is_the_jobs(tmp_path: Path) -> None:
    cluster = "cluster: {share: 0.5, nodes: 4, labels: {zone: a, kind: gpu}}\n"
    steps = "steps:\n  - index: {sources: v}\n  - annotate: {prompts: {q: 'Who?'}}\n  - transcribe:\n  - optimize:\n"
    job = loaded(tmp_path, f"archive: a\n{cluster}{steps}", "cluster.nodes=8")
    use = ClusterUse(0.5, 8, (("zone", "a"), ("kind", "gpu")))
    assert [step.config.cluster for step in job.steps[:3]] == [use, use, use]
    alone = [
        "v",
        "--archive",
        "a",
        "--share",
        "0.5",
        "--nodes",
        "8",
        "--label",
        "zone=a",
        "--label",
        "kind=gpu",
    ]
    parser = argparse.ArgumentParser()
    KINDS["index"].add_fields(parser)
    assert KINDS["index"].configure(parser.parse_args(alone)).cluster == use


def test_a_step_without_anything_else_has_the_settings_own_defaults(tmp_path: Path) -> None:
    assert loaded(tmp_path, "archive: a\nindex: {sources: [v]}").steps[0].config == IndexConfig(("v",), "a")
    step = loaded(tmp_path, "archive: a\nannotate: {prompts: {q: 'Q?'}}").steps[0]
    assert step.config == AnnotateConfig("a", (Prompt("q", "Q?"),))


def test_all_faults_are_told_together_with_their_lines(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        "archive: a\n"
        "schedule: {cron: '61 * * * *', timezone: Mars}\n"
        "index:\n"
        "  sources: [v]\n"
        "  fps: fast\n"
        "  bank_lenght: 3\n"
        "  segment_s: -1\n"
        "  merge_policy: best\n"
        "  prompts: {'a b': x}\n"
        "  bank_length: 0\n"
        "  prune: 1\n",
    )
    assert [line for line, _ in found] == [2, 2, 5, 6, 7, 8, 9, 10, 11]
    said = dict(found)
    assert said[5] == "index.fps is 'fast': it must be a number"
    assert said[6].startswith(
        "unknown key 'bank_lenght': did you mean 'bank_length'? index may have sources, "
    )
    assert "segment_s -1" in said[7]
    assert "'token', 'frame', 'fifo', 'average' or 'episode'" in said[8]
    assert "true or false" in said[11]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "is empty"),
        ("- a", 1, "holds no map"),
        (
            "archive: a",
            1,
            "nothing to do: write exactly one of index, annotate, transcribe, optimize, export, steps",
        ),
        ("archive: a\noptimize:\nexport: {format: csv}", 1, "optimize and export together"),
        ("archive: a\nsteps: []", 2, "at least 1 item"),
        ("archive: a\nsteps:\n  - {}", 3, "nothing to do"),
        ("optimize:", 1, "needs 'archive'"),
        ("archive: a\narchive: b\noptimize:", 2, "'archive' is given twice"),
        ("archive: !!python/object/apply:os.system [ls]\noptimize:", 1, "it must be text"),
        ("archive: !!binary aGk=\noptimize:", 1, "is not read here"),
        ("archive: a\nannotate: {}", 2, "no prompt"),
        ("archive: a\nexport: {format: vtt}", 2, "name a folder with output"),
        ("archive: a\nexport: {format: pdf}", 2, "it must be one of 'jsonl'"),
        ("archive: a\nname: Not This\noptimize:", 2, "name is 'Not This'"),
        ("archive: [\n", 2, "not YAML"),
        ("a: *b", 1, "not YAML"),
        ("? [a]\n: b", 1, "a key must be a word"),
        ("archive: ${env:NOT_SET}\noptimize:", 1, "the environment variable NOT_SET is not set"),
        ("archive: a\nindex: {sources: v, fps: 1" + "0" * 5000 + "}", 2, "is no int"),
        ("archive: a\nindex: {sources: v, frames_per_segment: 4, fps: 2}", 2, "goes with neither fps"),
        ("archive: a\noptimize:\nschedule: {cron: '0 0 30 2 *'}", 3, "a day that never comes"),
        ("archive: a\noptimize:\nschedule: {cron: '0 0 * *'}", 3, "has 4 fields"),
        ("archive: a\noptimize:\nschedule: {cron: '0 0 * * 8'}", 3, "0 to 7"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, text: str, line: int, said: str) -> None:
    found = faults(tmp_path, text)
    assert [message for number, message in found if number == line and said in message] != []


def test_a_file_built_to_blow_up_is_refused(tmp_path: Path) -> None:
    bomb = "a: &a [x]\n" + "\n".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]" for n in range(9)
    )
    assert "20000 values" in faults(tmp_path, bomb)[0][1]
    assert "nested too deep" in faults(tmp_path, "a: &a [*a]")[0][1]
    assert "nested too deep" in faults(tmp_path, "[" * 100_000)[0][1]
    assert "bytes" in faults(tmp_path, "#" * (2 << 20))[0][1]


def test_variables_are_put_in_where_they_are_marked_and_nowhere_else(tmp_path: Path) -> None:
    text = (
        "archive: s3://${env:BUCKET}/a\n"
        "index:\n  sources: ['$HOME', '$${env:BUCKET}', '${BUCKET}']\n"
        "  fps: ${env:FPS:-4}\n  model: '${env:N}'\n"
    )
    job = loaded(tmp_path, text, BUCKET="b: [x", N="7")
    assert job.archive == "s3://b: [x/a"
    assert job.steps[0].config == IndexConfig(
        ("$HOME", "${env:BUCKET}", "${BUCKET}"), "s3://b: [x/a", fps=4.0, model="7"
    )
    assert job.variables_needed == ("BUCKET", "N")
    assert faults(tmp_path, text, BUCKET="b", N="m", FPS="x")[0][1] == "index.fps is 'x': it must be a number"


def test_values_may_be_set_from_outside(tmp_path: Path) -> None:
    text = "archive: a\nsteps:\n  - index: {sources: v, fps: fast}\n"
    job = loaded(tmp_path, text, "steps.0.index.fps=2", "archive=b", "steps.0.index.prompts.q=Is it: so?")
    config = job.steps[0].config
    assert (config.fps, config.archive, config.prompts) == (2.0, "b", (Prompt("q", "Is it: so?"),))
    with pytest.raises(JobFileError, match=r"--set steps.0.index.fps: .* is 'slow'"):
        loaded(tmp_path, text, "steps.0.index.fps=slow")
    for wrong in ("fps", "steps.7.index.fps=2", "archive.x=2", "=3", "a..b=3"):
        with pytest.raises(ConfigError, match="--set"):
            loaded(tmp_path, text, wrong)


def test_init_writes_a_file_that_is_in_order_also_with_its_comments_taken_away(tmp_path: Path) -> None:
    text = example(file="job.yaml", name="job", sources=["my videos/"], archive="a: b")
    job = loaded(tmp_path, text)
    assert job.archive == "a: b"
    assert [step.kind for step in job.steps] == ["index", "optimize"]
    # Comments that are YAML: `# key:` and `  # - annotate:`.
    lines = text.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("steps:"))
    opened = [
        line.replace("# ", "", 1)
        if line.lstrip().startswith(("# -", "#  ", "# schedule", "# cluster"))
        else line
        for line in lines[begin:]
    ]
    everything = loaded(tmp_path, "\n".join([*lines[:begin], *opened]))
    assert [step.kind for step in everything.steps] == ["index", "annotate", "optimize", "export"]
    assert everything.job.schedule is not None
    assert everything.job.cluster.secrets[0].env == "AWS_SECRET_ACCESS_KEY"
    with pytest.raises(ConfigError):
        example(file="j", name="j", sources=["a\nb"], archive="a")


def test_the_schema_is_one_and_takes_what_the_program_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    text = example(file="job.yaml", name="job", sources=["v"], archive="a")
    check.validate(yaml.safe_load(text))
    check.validate({"archive": "a", "steps": [{"optimize": None}]})
    check.validate({"archive": "a", "annotate": {"prompts": {"q": "Q?", "r": {"text": "R?"}}}})
    faulty: list[dict[str, object]] = [
        {"archive": "a", "index": {"sources": "v", "fsp": 1}},
        {"archive": "a", "index": {"sources": "v", "fps": "1"}},
        {"archive": "a", "export": {"format": "pdf"}},
        {"optimize": {}},
        {"archive": "a"},
        {"archive": "a", "optimize": None, "steps": [{"optimize": None}]},
        {"archive": "a", "steps": [{}]},
    ]
    for wrong in faulty:
        assert not check.is_valid(wrong)


_words = st.sampled_from(
    ["archive", "index", "steps", "sources", "fps", "prompts", "text", "labels", "schedule", "cron", "export", "name",
     "timezone", "cluster", "secrets", "memory", "resources", "where", "format", "optimize", "annotate", "${env:X}"]
)  # fmt: skip
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | _words | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_words | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=25,
)


@settings(max_examples=150)
@given(content=_values, sets=st.lists(st.text(max_size=12), max_size=1))
def test_no_values_are_a_surprise(
    tmp_path_factory: pytest.TempPathFactory, content: object, sets: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "values.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    _is_loaded_or_refused(path, sets)


@settings(max_examples=150)
@given(
    data=st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_no_bytes_are_a_surprise(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(data)
    _is_loaded_or_refused(path, [])


def _is_loaded_or_refused(path: Path, sets: list[str]) -> None:
    try:
        load(str(path), sets=sets, environment={})
    except ConfigError as error:
        said = [str(problem) for problem in getattr(error, "problems", (error,))]
    else:
        return
    assert said
    assert all(line.startswith((str(path), "--set")) for line in said)


def test_faults_are_a_line_each_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text('archive: a\nindex:\n  fps: "\\e[2J"\n  limit: x\n')
    assert main(["run", "job.yaml"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert [line.partition(" index")[0] for line in lines] == [
        "error: job.yaml:2:1:", "error: job.yaml:3:3:", "error: job.yaml:4:3:"
    ]  # fmt: skip
    assert all(line.isprintable() for line in lines)
    assert main(["run", "gone.yaml"]) == 2
    assert capsys.readouterr().err == (
        "error: cannot read the job file gone.yaml: No such file or directory; `malmm init` writes one\n"
    )
    assert main(["run", "job.yaml", "--log-format", "json"]) == 2
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [each["event"] for each in said] == ["error"] * 3


def test_partitions_have_archives_of_their_own(tmp_path: Path) -> None:
    text = (
        "archive: a/\npartitions: 8\nsteps:\n  - index: {sources: v}\n  - annotate: {prompts: {q: 'Who?'}}\n"
    )
    path = tmp_path / "job.yaml"
    path.write_text(f"{text}  - optimize:\n")
    for chosen, index in ((None, 0), (0, 0), (7, 7)):
        job = load(str(path), partition=chosen)
        indexed, annotated, optimized = (step.config for step in job.steps)
        assert (indexed.archive, indexed.partition) == (f"a/part-000{index}", Partition(8, index))
        assert {job.archive, annotated.archive, optimized.archive} == {indexed.archive}
    assert job.job.archive_of(3) == "a/part-0003"
    with pytest.raises(ConfigError, match=r"--partition 8: from 0 to 7"):
        load(str(path), partition=8)
    path.write_text("archive: a\nindex: {sources: v}\n")
    with pytest.raises(ConfigError, match=r"--partition 0: the job has no partitions"):
        load(str(path), partition=0)
    assert faults(tmp_path, "archive: a\npartitions: 0\nindex: {sources: v}\n") == [
        (2, "partitions is 0: input should be greater than or equal to 1")
    ]
    [(_, said)] = faults(tmp_path, "archive: a\npartitions: 2\nexport: {format: csv}\n")
    assert "`malmm export --archive a` exports all of them as one" in said
    [(line, said)] = faults(tmp_path, "archive: a\npartitions: 2\nindex:\n  sources: v\n  reindex: true\n")
    assert (line, "is fixed" in said) == (5, True)
