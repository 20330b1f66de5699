# SPDX-License-Identifier: Apache-2.0
"""The JobSets of scripts/launch/gke, held against Kubernetes' schema and what they must do."""

from __future__ import annotations

import json
import os
import re
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import runs
import yaml

LAUNCH = runs.ROOT / "scripts" / "launch" / "gke" / "launch.sh"
GIVEN = {
  "NAME": "big",
  "IMAGE": "registry.example/switch_t5:1",
  "ACCELERATOR": "some-accelerator",
  "SHAPE": "4x4x4",
  "SLICES": "2",
  "HOSTS": "16",
  "CHIPS": "4",
}
FLAGS = ["--gin_file=a.gin", "--gin.MODEL_DIR='gs://mine/run'", '--gin.X={"a": 1}']
# The part of JobSet's v1alpha2 that is used: jobset.x-k8s.io's CRD has more. Jobs are Kubernetes's.
STRING, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}


def mapping(**properties: object) -> dict[str, object]:
  return {
    "type": "object",
    "properties": properties,
    "required": list(properties),
    "additionalProperties": False,
  }


RULE = {
  "type": "object",
  "properties": {
    "name": {"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    "action": {"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
    "onJobFailureReasons": {
      "items": {"enum": ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"]}
    },
    "onJobFailureMessagePatterns": {"type": "array", "items": STRING},
  },
  "required": ["name", "action"],
  "additionalProperties": False,
}
JOBSET = mapping(
  apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
  kind={"const": "JobSet"},
  metadata={"type": "object", "required": ["name"]},
  spec=mapping(
    failurePolicy=mapping(
      maxRestarts=COUNT,
      restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
      rules={"type": "array", "items": RULE},
    ),
    replicatedJobs={
      "type": "array",
      "items": mapping(name=STRING, replicas=COUNT, template={"type": "object"}),
    },
  ),
)


def launched(kind: str) -> str:
  return subprocess.run(
    ["bash", str(LAUNCH), "--dry_run", kind, *FLAGS],
    env=os.environ | GIVEN,
    capture_output=True,
    text=True,
    check=True,
  ).stdout


@pytest.fixture(params=["tpu", "gpu"])
def jobset(request):
  return yaml.safe_load(launched(request.param))


@pytest.fixture
def job(jobset):
  (replicated,) = jobset["spec"]["replicatedJobs"]
  return replicated["template"]["spec"]


def test_a_manifest_is_of_the_schema_of_jobset_and_its_jobs_of_kubernetes(jobset, job):
  jsonschema.validate(jobset, JOBSET)
  whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": job}
  kubernetes_validate.validate(whole, "1.37", strict=True)


def outcome(jobset, code: int | None) -> str:
  """Returns what is done when a pod ends with a code; None: its node is taken away.

  As Kubernetes has it: the first rule of podFailurePolicy that fits makes the job fail with the message
  "Container train ... failed with exit code N matching FailJob rule ..."; the first of the JobSet's
  rules that fits the job's reason and message is its action.
  """
  (replicated,) = jobset["spec"]["replicatedJobs"]
  job = replicated["template"]["spec"]
  reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
  for rule in job["podFailurePolicy"]["rules"]:
    codes = rule.get("onExitCodes", {}).get("values", [])
    if code in codes or (code is None and "onPodConditions" in rule):
      reason = "PodFailurePolicy"
      message = f"Container train failed with exit code {code} matching FailJob rule at index 0"
      break
  for rule in jobset["spec"]["failurePolicy"]["rules"]:
    patterns = rule.get("onJobFailureMessagePatterns", [""])
    if reason in rule["onJobFailureReasons"] and any(re.search(p, message) for p in patterns):
      return rule["action"]
  return "RestartJobSet"


@pytest.mark.parametrize(
  ("codes", "action"),
  [
    ([2, 3, 4], "FailJobSet"),
    ([75, 76, None], "RestartJobSetAndIgnoreMaxRestarts"),
    ([1, 134, 137, 139], "RestartJobSet"),
  ],
)
def test_exit_codes_restart_the_jobset_or_fail_it(jobset, codes, action):
  assert [outcome(jobset, code) for code in codes] == [action] * len(codes)


def test_a_pod_is_never_started_again_alone_and_has_time_to_save(job):
  assert job["backoffLimit"] == 0
  assert job["completionMode"] == "Indexed"
  assert job["parallelism"] == job["completions"] == 16
  pod = job["template"]["spec"]
  assert pod["restartPolicy"] == "Never"
  assert pod["terminationGracePeriodSeconds"] >= 60


def test_flags_reach_the_command_as_they_were_given(job):
  (container,) = job["template"]["spec"]["containers"]
  assert container["args"] == FLAGS
  assert container["command"][:2] == ["switch_t5", "train"]
  assert container["name"] == "train"  # as the rules name it


def test_a_pod_of_gpus_is_told_its_place():
  jobset = yaml.safe_load(launched("gpu"))
  (replicated,) = jobset["spec"]["replicatedJobs"]
  (container,) = replicated["template"]["spec"]["template"]["spec"]["containers"]
  # A pod's host name is JOBSET-JOB-INDEX-POD, in a domain named after the JobSet.
  assert container["command"][3:] == [
    f"--coordinator_address=big-{replicated['name']}-0-0.big:8476",
    "--process_count=16",
    "--process_index=$(PROCESS_INDEX)",
  ]
  (variable,) = container["env"]
  assert variable["name"] == "PROCESS_INDEX"
  assert "job-completion-index" in json.dumps(variable["valueFrom"])


def test_what_is_not_given_is_asked_for():
  left = {name: value for name, value in os.environ.items() if name not in GIVEN}
  shown = subprocess.run(
    ["bash", str(LAUNCH), "--dry_run", "tpu"], env=left, capture_output=True, text=True
  )
  assert shown.returncode != 0
  assert "set NAME" in shown.stderr
