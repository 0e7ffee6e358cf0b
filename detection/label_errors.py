"""Which annotations a trained model contradicts most: wrong classes, boxes and masks, missing and invented objects.

The evidence is that of ObjectLab (Tkachenko, Thyagarajan, Mueller: "ObjectLab: Automated Diagnosis of Mislabeled Images
in Object Detection Data", 2023): confident detections that are similar to an annotation of another class (swapped), to
a shifted one (badly located) or to none (overlooked). It is judged against what the model usually gives, as in
confident learning (Northcutt, Jiang, Chuang, JAIR 2021): of a model that misses small objects, a miss says little.

With annotations i of class y_i, detections j of class c_j and score s_j, the IoU v_ij of their boxes and m_ij of their
masks, and g(v) = min(2v, 1)², each kind has a score from 0 to 1:

    class     s_j · min(v_ij / V, 1)² · (1 - max_k s_k · g(v_ik))
              the best j of c_j ≠ y_i and v_ij ≥ 1/2, against all k of c_k = y_i; a wrong class leaves the box right, so
              that a detection beside the box speaks of another object
    box       s_j · (1 - (v_ij / V)²)₊ · (1 - max_k s_k · g(v_ik))
              the best j of c_j = y_i and v_ij ≥ 0.05 that is not nearer to another annotation, of v ≥ 1/2; against all
              k of c_k = y_i that are nearer to i
    mask      s_j · (1 - (m_ij / M)²)₊
              the best j of c_j = y_i and v_ij ≥ 1/2
    spurious  r_i · (1 - max_j o_j · g(v_ij))
              o_j is the sum over the classes, at most 1, of their best scores where j is: a model that wavers between
              classes sees an object; r_i is the mean of the maximum over annotations of the class and about the size
              of i that, like i, touch other annotations or do not
    missing   s_j · (1 - max_i g(v_ij))
              once per place, and not where j shows that a box is wrong

The detections are those on which the image and its mirror image agree (`detection/consensus.py`). V and M are the
medians, over the data, of v_ij and m_ij of annotations and the best j of their class with v_ij ≥ 1/2.
An annotation is listed once, as the kind of its highest score.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import box_iou, nms

from pe_spatial.data import LoadInstances, decode_masks, encode_masks
from pe_spatial.detection.consensus import agree
from pe_spatial.detection.tta import unmirror
from pe_spatial.doctor import Suspect

_SAME = 0.5  # IoU of boxes from which on they are of one object
_NEAR = 0.05  # IoU of boxes from which on one may be the other, moved
_LEAST = 0.1  # suspects below this score are forgotten
_NEIGHBORS = 0.05  # share of the annotations of a kind whose areas are about the same
_FEWEST = 10


@dataclass(frozen=True)
class _Claim:
    """A suspect whose score is not yet weighed by what is usual."""

    suspect: Suspect
    row: int = -1  # of the annotation among all


class LabelErrors:
    """Collects the contradictions of all images, then ranks them.

    Args:
        classes: Names by label, of the annotations and of the predictions.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = list(classes)
        self._claims: list[_Claim] = []
        self._seen = 0  # annotations
        self._statistics: list[Tensor] = []  # [n, 5] of every image; see `_Pair.statistics`

    @staticmethod
    def load(sample: dict[str, Any]) -> dict[str, Any]:
        """The annotations of a loaded image, in any thread; what it returns is for `add`.

        Args:
            sample: With `img`, `ori_shape` and `instances`.
        """
        instances = sample["instances"]
        masks = bool(instances) and all("mask" in item for item in instances)
        loaded = LoadInstances(masks=masks, ignored="keep")(sample)
        return {**loaded, "rows": [row for row, item in enumerate(instances) if not item.get("ignore", False)]}

    def add(self, number: int, sample: dict[str, Any], prediction: Any, mirrored: Any = None) -> None:
        """Compare the annotations of an image with what the model says.

        Args:
            number: Of the image in its dataset.
            sample: Of `load`.
            prediction: A data sample with `pred_instances` in the pixels of the image.
            mirrored: The same of the mirrored image, in its pixels; without it the one prediction is believed.
        """
        found = prediction.pred_instances.to("cpu")
        if mirrored is not None:
            found = agree(found, unmirror(mirrored.pred_instances.to("cpu"), sample["ori_shape"][1]))
        pair = _Pair(sample, found)
        self._statistics.append(pair.statistics())
        claims = pair.claims(number, self._classes, self._seen)
        self._claims += [claim for claim in claims if claim.suspect.score >= _LEAST]
        self._seen += len(pair.rows)

    def rank(self) -> list[Suspect]:
        """All suspects, the most contradicted first; of one annotation only the gravest."""
        statistics = torch.cat([torch.empty(0, 5), *self._statistics])
        usual_iou = {"box": _median(statistics[:, 3]), "mask": _median(statistics[:, 4])}
        usual_support = _usual_support(statistics[:, 0], statistics[:, 1], statistics[:, 2])
        best: dict[tuple[int, int], Suspect] = {}
        for place, claim in enumerate(self._claims):
            suspect = claim.suspect
            if suspect.kind == "class":
                suspect = suspect.weighed(min((suspect.iou or 0.0) / usual_iou["box"], 1.0) ** 2)
            elif suspect.kind in usual_iou:
                suspect = suspect.weighed(max(1 - ((suspect.iou or 0.0) / usual_iou[suspect.kind]) ** 2, 0.0))
            elif suspect.kind == "spurious":
                suspect = suspect.weighed(float(usual_support[claim.row]))
            key = (suspect.sample, -1 - place if suspect.row is None else suspect.row)
            if suspect.score >= _LEAST and (key not in best or suspect.score > best[key].score):
                best[key] = suspect
        return sorted(best.values(), key=lambda suspect: -suspect.score)


class _Pair:
    """The annotations and the detections of one image."""

    def __init__(self, sample: dict[str, Any], found: InstanceData) -> None:
        ignored = sample.get("ignored_boxes", torch.empty(0, 4)).as_subclass(Tensor)
        found = found[_covered(found.bboxes.float(), ignored) < _SAME]
        self.boxes, self.labels = sample["boxes"].as_subclass(Tensor), sample["labels"]
        self.rows: list[int] = sample["rows"]
        self.found, self.scores = found, found.scores.float()
        self.iou = box_iou(self.boxes, found.bboxes.float())  # [N, M]
        self.same = self.labels[:, None] == found.labels  # [N, M]
        self.near = (2 * self.iou).clamp(max=1) ** 2
        self.own = self.scores * self.near * self.same  # [N, M]
        self.support = _greatest(self._any_class() * self.near)  # [N]
        self.matches = self._match()
        self.mask_iou = self._mask_iou(sample.get("masks"))

    def _any_class(self) -> Tensor:
        """How sure the model is that there is an object, of whatever class, where each detection is [M]."""
        boxes = self.found.bboxes.float()
        here = self.scores * (box_iou(boxes, boxes) >= _SAME)  # [M, M]
        labels = self.found.labels
        best = [_greatest(here[:, labels == label]) for label in labels.unique()]
        return torch.stack(best).sum(0).clamp(max=1) if best else self.scores

    def _match(self) -> list[int]:
        """For each annotation the most confident detection of its class and place, or -1."""
        strength = self.scores * self.iou * (self.same & (self.iou >= _SAME))
        return [-1 if not len(row) or row.max() == 0 else int(row.argmax()) for row in strength]

    def _mask_iou(self, masks: Tensor | None) -> list[float]:
        """IoU of the masks of the matches; NaN where there are none."""
        if masks is None or "masks" not in self.found:
            return [float("nan")] * len(self.boxes)
        pairs = zip(masks.as_subclass(Tensor), self.matches, strict=True)
        return [
            float("nan") if j < 0 else _overlap(mask, decode_masks(self.found.masks[j : j + 1])[0]) for mask, j in pairs
        ]

    def statistics(self) -> Tensor:
        """[N, 5]: kind of object, area, support of any class, IoU of the boxes and of the masks of the matches."""
        area = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1)
        ious = [float("nan") if j < 0 else float(self.iou[i, j]) for i, j in enumerate(self.matches)]
        others = box_iou(self.boxes, self.boxes).fill_diagonal_(0)
        kinds = 2 * self.labels + (_greatest(others) > _NEAR)  # those that others touch are harder to see
        columns = [kinds.float(), area, self.support, torch.tensor(ious), torch.tensor(self.mask_iou)]
        return torch.stack(columns, dim=1)

    def claims(self, number: int, classes: Sequence[str], first: int) -> Iterator[_Claim]:
        """Everything that the detections say against the annotations; `first` is the row of the first annotation."""
        moved: set[int] = set()
        for i, row in enumerate(self.rows):
            label, box = classes[int(self.labels[i])], self.boxes[i].tolist()
            common = {"sample": number, "row": row, "label": label, "box": box}
            for kind, score, j in (self._class(i), self._box(i), self._mask(i)):
                if score < _LEAST:
                    continue
                iou = self.mask_iou[i] if kind == "mask" else float(self.iou[i, j])
                if score * (1 if kind == "class" else 1 - iou**2) < _LEAST:  # V and M are at most 1
                    continue
                evidence = self._describe(j, classes)
                if kind == "mask":
                    evidence["predicted_mask"] = encode_masks(self.found.masks[j : j + 1])[0]
                if kind == "box":
                    moved.add(j)
                yield _Claim(Suspect(kind, score, **common, **evidence, iou=iou))
            yield _Claim(Suspect("spurious", 1 - float(self.support[i]), **common), row=first + i)
        yield from self._missing(number, classes, moved)

    def _class(self, i: int) -> tuple[str, float, int]:
        """The factor min(v / V, 1)² is not yet in the score."""
        others = self.scores * (~self.same[i] & (self.iou[i] >= _SAME))
        j = _best(others)
        return "class", 0.0 if j < 0 else float(others[j] * (1 - self.own[i].max())), j

    def _box(self, i: int) -> tuple[str, float, int]:
        """The factor 1 - (v / V)² is not yet in the score."""
        iou, own = self.iou[i], self.own[i]
        nearest = self.iou.max(0).values
        belongs = self.same[i] & (iou >= _NEAR) & ((iou >= nearest) | (nearest < _SAME))
        weight = self.scores * belongs * (1 - _greatest((own[:, None] * (iou[:, None] > iou)).T))
        j = _best(weight * (1 - iou))
        return "box", 0.0 if j < 0 else float(weight[j]), j

    def _mask(self, i: int) -> tuple[str, float, int]:
        """The factor 1 - (m / M)² is not yet in the score."""
        j = self.matches[i]
        known = j >= 0 and self.mask_iou[i] == self.mask_iou[i]
        return "mask", float(self.scores[j]) if known else 0.0, j

    def _missing(self, number: int, classes: Sequence[str], moved: set[int]) -> Iterator[_Claim]:
        score = self.scores * (1 - _greatest(self.near.T))  # [M]
        score[sorted(moved)] = 0
        for j in nms(self.found.bboxes.float(), score, _SAME).tolist():
            yield _Claim(Suspect("missing", float(score[j]), number, **self._describe(j, classes)))

    def _describe(self, j: int, classes: Sequence[str]) -> dict[str, Any]:
        return {
            "predicted_label": classes[int(self.found.labels[j])],
            "predicted_box": self.found.bboxes[j].tolist(),
            "confidence": float(self.scores[j]),
        }


def _best(weight: Tensor) -> int:
    """The place of the greatest weight, or -1 where there is none above 0."""
    return int(weight.argmax()) if len(weight) and weight.max() > 0 else -1


def _greatest(rows: Tensor) -> Tensor:
    """The greatest value of every row [N, M], 0 where M is 0."""
    return rows.max(1).values if rows.shape[1] else rows.new_zeros(len(rows))


def _covered(boxes: Tensor, regions: Tensor) -> Tensor:
    """The greatest share [M] of boxes [M, 4] that one of the regions [R, 4] covers."""
    corners = torch.maximum(boxes[:, None, :2], regions[:, :2]), torch.minimum(boxes[:, None, 2:], regions[:, 2:])
    shared = (corners[1] - corners[0]).clamp(min=0).prod(2)  # [M, R]
    return _greatest(shared / (boxes[:, 2:] - boxes[:, :2]).prod(1, keepdim=True).clamp(min=1e-6))


def _overlap(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum() / (one | other).sum().clamp(min=1))


def _median(values: Tensor) -> float:
    known = values[~values.isnan()]
    return max(float(known.median()), 1e-6) if len(known) else 1.0


def _usual_support(kinds: Tensor, areas: Tensor, support: Tensor) -> Tensor:
    """For every annotation the mean support of those of its kind whose areas are nearest in rank. All [N]."""
    usual = torch.zeros(len(kinds))
    for kind in kinds.unique():
        members = (kinds == kind).nonzero().flatten()
        members = members[areas[members].argsort()]
        reach = max(_FEWEST, round(_NEIGHBORS * len(members))) // 2
        sums = torch.cat([torch.zeros(1, dtype=torch.float64), support[members].double().cumsum(0)])
        places = torch.arange(len(members))
        low, high = (places - reach).clamp(min=0), (places + reach + 1).clamp(max=len(members))
        usual[members] = ((sums[high] - sums[low]) / (high - low)).float()
    return usual
