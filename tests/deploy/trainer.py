"""The part of Kubeflow Trainer's API that deploy/kubernetes.yaml uses, as its types and their rules document it.

Written down from kubeflow/trainer, pkg/apis/trainer/v1alpha1/{trainjob,trainingruntime}_types.go and its torch plugin
(v2.2), JobSet's v1alpha2 and Kubernetes' core/v1. A schema is a type, a pattern, a list of one schema, a set of values,
or a dictionary of fields, of which those that end in ! must be there. As with kubectl's strict validation, a field that
is not known is an error.
"""

from __future__ import annotations

import re
from typing import Any

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1035, at most 63
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
METADATA = {"name!": NAME, "namespace": NAME, "labels": {"*": str}, "annotations": {"*": str}}
RESOURCES = {"requests": {"*": QUANTITY}, "limits": {"*": QUANTITY}}
VARIABLE = {
    "name!": re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    "value": str,
    "valueFrom": {"secretKeyRef": {"name!": NAME, "key!": str}, "fieldRef": {"fieldPath!": str}},
}
CONTAINER = {
    "name!": NAME,
    "image": str,
    "command": [str],
    "args": [str],
    "env": [VARIABLE],
    "resources": RESOURCES,
    "volumeMounts": [{"name!": NAME, "mountPath!": re.compile(r"/.*"), "readOnly": bool}],
}
POD = {
    "restartPolicy": {"OnFailure", "Never"},  # a Job's pods know no Always
    "terminationGracePeriodSeconds": int,
    "containers!": [CONTAINER],
    "volumes": [{"name!": NAME, "emptyDir": {"medium": {"", "Memory"}, "sizeLimit": QUANTITY}}],
    "nodeSelector": {"*": str},
}
JOB = {"backoffLimit": int, "template!": {"metadata": {"labels": {"*": str}}, "spec!": POD}}
JOB_SET = {
    "failurePolicy": {"maxRestarts": int},
    "replicatedJobs!": [
        {"name!": NAME, "replicas": int, "template!": {"metadata": {"labels": {"*": str}}, "spec!": JOB}}
    ],
}
TRAINING_RUNTIME = {
    "apiVersion!": {"trainer.kubeflow.org/v1alpha1"},
    "kind!": {"TrainingRuntime"},
    "metadata!": METADATA,
    "spec!": {
        "mlPolicy": {"numNodes": int, "torch": {"numProcPerNode": {"auto", "cpu", "gpu"}}},
        "template!": {"spec!": JOB_SET},
    },
}
TRAIN_JOB = {
    "apiVersion!": {"trainer.kubeflow.org/v1alpha1"},
    "kind!": {"TrainJob"},
    "metadata!": METADATA,
    "spec!": {
        "runtimeRef!": {
            "name!": NAME,
            "apiGroup": {"trainer.kubeflow.org"},
            "kind": {"TrainingRuntime", "ClusterTrainingRuntime"},
        },
        "trainer": {
            "image": str,
            "command": [str],
            "args": [str],
            "env": [VARIABLE],
            "numNodes": int,
            "numProcPerNode": int,
            "resourcesPerNode": RESOURCES,
        },
        "suspend": bool,
    },
}
RESERVED = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}
"""Variables that Trainer sets itself, and refuses to be given."""


def complaints(value: Any, schema: Any, place: str = "") -> list[str]:
    """What is wrong with `value`, each with its place; nothing if it is as `schema` says."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{place}: no object"]
        if "*" in schema:
            return [said for key, item in value.items() for said in complaints(item, schema["*"], f"{place}.{key}")]
        known = {key.rstrip("!"): rule for key, rule in schema.items()}
        missing = [key[:-1] for key in schema if key.endswith("!") and key[:-1] not in value]
        found = [f"{place}.{key}: missing" for key in missing]
        for key, item in value.items():
            found += complaints(item, known[key], f"{place}.{key}") if key in known else [f"{place}.{key}: unknown"]
        return found
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{place}: no list"]
        return [said for i, item in enumerate(value) for said in complaints(item, schema[0], f"{place}[{i}]")]
    if isinstance(schema, set):
        fits = value in schema
    elif isinstance(schema, re.Pattern):
        fits = isinstance(value, str) and schema.fullmatch(value) is not None
    else:
        fits = isinstance(value, schema) and not (schema is int and isinstance(value, bool))
    return [] if fits else [f"{place}: {value!r}"]
