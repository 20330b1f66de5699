# SPDX-License-Identifier: Apache-2.0
"""T5's text formats of GLUE and SuperGLUE, as steps of seqio's tasks.

A step takes a `tf.data.Dataset` of a data set's examples and returns one with the texts `inputs` and
`targets`, and with what the scores need. TensorFlow is imported when a step is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from switch_t5.data.downstream import wnli

if TYPE_CHECKING:
  import tensorflow as tf

UNKNOWN = "<unk>"  # T5's target where there is no label
WSC = "wsc:"
# Sentences of WSC whose pronoun is not the word that they say it is, and T5's inputs.
_WSC_INPUTS = {
  "The boy continued to whip the pony , and eventually the pony threw him over. John laughed out "
  'quite loud. "Good for him," he said. ': "The boy continued to whip the pony , and eventually the "
  'pony threw him over. John laughed out quite loud. "Good for *him* ," he said.',
  "When they had eventually calmed down a bit , and had gotten home, Mr. Farley put the magic pebble "
  "in an iron safe . Some day they might want to use it , but really for now, what more could they "
  "wish for?": "When they had eventually calmed down a bit , and had gotten home, Mr. Farley put the "
  "magic pebble in an iron safe . Some day they might want to use *it* , but really for now, what "
  "more could they wish for?",
}


def labelled(
  dataset: tf.data.Dataset,
  benchmark: str,
  labels: Sequence[str],
  texts: Mapping[str, str] | None = None,
) -> tf.data.Dataset:
  """Makes `benchmark key: text key: text` of an example's texts, and the name of its label.

  Args:
    dataset: of examples with texts, `label` (-1: none) and perhaps `idx`.
    benchmark: first word of the inputs.
    labels: their names.
    texts: the feature of each key, in order; None: all of them under their names, sorted.
  """
  import tensorflow as tf

  names = tf.constant([UNKNOWN, *labels])

  def format_(example: Mapping[str, Any]) -> dict[str, Any]:
    given = texts or {key: key for key in sorted(set(example) - {"idx", "label"})}
    words = [benchmark]
    for key, feature in given.items():
      words += [f"{key}:", example[feature]]
    return {
      "inputs": tf.strings.join(words, separator=" "),
      "targets": names[example["label"] + 1],
      **_numbers(example.get("idx")),
    }

  return dataset.map(format_)


def _numbers(idx: Any) -> dict[str, Any]:
  """Returns what tells examples apart, if anything: `idx`, or `idx/question` and the like."""
  if idx is None:
    return {}
  if isinstance(idx, Mapping):
    return {f"idx/{key}": value for key, value in idx.items()}
  return {"idx": idx}


def without_markup(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Takes HTML's `<b>` out of the inputs, and puts a space for `<br>`."""
  import tensorflow as tf

  def clean(example: Mapping[str, Any]) -> dict[str, Any]:
    inputs = tf.strings.regex_replace(example["inputs"], "<br>", " ")
    return {**example, "inputs": tf.strings.regex_replace(inputs, "</?b>", "")}

  return dataset.map(clean)


def record(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Makes an example of each answer to a ReCoRD query, one of no answer, with all `answers`."""
  import tensorflow as tf

  def format_(example: Mapping[str, Any]) -> dict[str, Any]:
    # Highlights follow the passage: sentences, of which the first may lack a full stop.
    passage = tf.strings.regex_replace(example["passage"], r"""([.?!"'])\n@highlight\n""", r"\1 ")
    passage = tf.strings.regex_replace(passage, r"\n@highlight\n", ". ")
    entities = tf.strings.reduce_join(example["entities"], separator=", ")
    return {
      "inputs": tf.strings.join(
        ["record query:", example["query"], "entities:", entities, "passage:", passage],
        separator=" ",
      ),
      "answers": example["answers"],
      **_numbers(example["idx"]),
    }

  def each_answer(example: Mapping[str, Any]) -> tf.data.Dataset:
    answers = example["answers"]
    targets = tf.cond(tf.size(answers) > 0, lambda: answers, lambda: tf.constant([UNKNOWN]))
    return tf.data.Dataset.from_tensor_slices(targets).map(
      lambda target: {**example, "targets": target}
    )

  return dataset.map(format_).flat_map(each_answer)


def wsc(dataset: tf.data.Dataset, only_right: bool) -> tf.data.Dataset:
  """Makes `wsc: ... *pronoun* ...` of WSC's sentences; the target is the referent that is asked for.

  Args:
    dataset: of TFDS's `wsc.fixed`.
    only_right: whether examples whose referent is the wrong one are left out.
  """
  import tensorflow as tf

  def format_(example: Mapping[str, Any]) -> dict[str, Any]:
    words = tf.strings.split(example["text"], sep=" ")
    pronoun = tf.strings.join(["*", example["span2_text"], "*"])
    before, after = words[: example["span2_index"]], words[example["span2_index"] + 1 :]
    sentence = tf.strings.reduce_join(tf.concat([before, [pronoun], after], 0), separator=" ")
    for published, mended in _WSC_INPUTS.items():
      sentence = tf.where(example["text"] == published, mended, sentence)
    return {
      "inputs": tf.strings.join([WSC, sentence], separator=" "),
      "targets": example["span1_text"],
      "label": example["label"],
      "idx": example["idx"],
    }

  if only_right:
    dataset = dataset.filter(lambda example: example["label"] == 1)
  return dataset.map(format_)


def dpr(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Makes examples as `wsc` does of DPR's: the first such pronoun is marked."""
  import tensorflow as tf

  def format_(example: Mapping[str, Any]) -> dict[str, Any]:
    sentence = tf.strings.regex_replace(
      example["sentence"],
      tf.strings.join([" (", example["pronoun"], r")( |\.|,)"]),
      r" *\1*\2",
      replace_global=False,
    )
    return {
      "inputs": tf.strings.join([WSC, sentence], separator=" "),
      "targets": example["candidates"][example["label"]],
    }

  return dataset.map(format_)


def stsb(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Makes examples as `labelled` does of STS-B's, whose scores are rounded to fifths: `3.4`."""
  import tensorflow as tf

  def format_(example: Mapping[str, Any]) -> dict[str, Any]:
    return {
      "inputs": tf.strings.join(
        ["stsb sentence1:", example["sentence1"], "sentence2:", example["sentence2"]],
        separator=" ",
      ),
      "targets": tf.strings.as_string(tf.round(example["label"] * 5) / 5, precision=1),
      "idx": example["idx"],
    }

  return dataset.map(format_)


def wnli_as_wsc(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Makes examples as `wsc` does of WNLI's; see `wnli.as_wsc`."""
  import tensorflow as tf

  def texts(premise: bytes, hypothesis: bytes) -> tuple[bytes, bytes]:
    sentence, referent = wnli.as_wsc(premise.decode("utf-8"), hypothesis.decode("utf-8"))
    return f"{WSC} {sentence}".encode(), referent.encode("utf-8")

  def format_(example: Mapping[str, Any]) -> dict[str, Any]:
    inputs, targets = tf.numpy_function(
      texts, [example["sentence1"], example["sentence2"]], (tf.string, tf.string)
    )
    return {
      "inputs": tf.ensure_shape(inputs, []),
      "targets": tf.ensure_shape(targets, []),
      "label": example["label"],
      "idx": example["idx"],
    }

  return dataset.map(format_)
