"""YAML without code execution. mmengine's own reader and writer of .yaml files stay as they are.

Differences from PyYAML's safe loader: a key that appears twice is an error, and `1e-4` is a number (YAML 1.1 takes it
for a string because the dot is missing), and dates are text.
"""

import re
from typing import Any

import yaml

YAMLError = yaml.YAMLError

_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)

_MOST_VALUES = 1_000_000  # with all that its anchors stand for; a class list of LVIS has 1,203


class _GuardedLoader(yaml.composer.Composer, yaml.constructor.BaseConstructor):
    """Refuses keys that are given twice, and texts that stand for too much.

    Anchors that are used again and again, each in the next, may stand for more values than any memory holds: such a
    text is refused before a value is made of it, and so is one that is nested too deep.
    """

    def get_single_node(self) -> yaml.Node | None:
        """Raise yaml.constructor.ConstructorError where the text stands for too much."""
        try:
            node = super().get_single_node()
            if node is not None and _count_values(node, {}) > _MOST_VALUES:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"its anchors (&name) expand to more than {_MOST_VALUES:,} values",
                    node.start_mark,
                )
        except RecursionError:
            raise yaml.constructor.ConstructorError(None, None, "it is nested too deeply", None) from None
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        """Raise yaml.constructor.ConstructorError for numbers that are none, such as one of thousands of digits."""
        try:
            return super().construct_document(node)
        except (ValueError, OverflowError) as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raise yaml.constructor.ConstructorError where a key is repeated."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key} is defined twice, first on line {seen[key]}", key_node.start_mark
                )
            seen[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Values of a node with those that its anchors stand for.

    Raises:
        yaml.constructor.ConstructorError: An anchor contains itself.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    count = known.get(id(node))
    if count == 0:  # it is being counted
        problem = "an anchor (&name) contains itself"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    if count is None:
        known[id(node)] = 0
        parts = (part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,)))
        count = known[id(node)] = 1 + sum(_count_values(part, known) for part in parts)
    return count


class SafeLoader(_GuardedLoader, yaml.SafeLoader):
    """PyYAML's safe loader with the float rule and the duplicate rule of this module."""


class _TextLoader(_GuardedLoader, yaml.BaseLoader):
    """Every scalar is the text that stands there."""


# dates stay text, and what is neither text, number, list nor mapping has no place in a config
_NOT_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "binary", "set", "omap", "pairs")}
SafeLoader.yaml_constructors = {
    tag: construct for tag, construct in yaml.SafeLoader.yaml_constructors.items() if tag not in _NOT_PLAIN
}
SafeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in {"tag:yaml.org,2002:float", *_NOT_PLAIN}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
SafeLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


class SafeDumper(yaml.SafeDumper):
    """PyYAML's safe dumper; tuples become lists and numbers keep a form that every YAML reader takes for a number."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out: an alias in a resolved config hides what it stands for."""
        return True


# text that SafeLoader would take for a number is written in quotes
SafeDumper.yaml_implicit_resolvers = SafeLoader.yaml_implicit_resolvers
SafeDumper.add_representer(tuple, SafeDumper.represent_list)
SafeDumper.add_multi_representer(dict, SafeDumper.represent_dict)


def parse(text: str) -> Any:
    """Read the value of a YAML text.

    Raises:
        yaml.YAMLError: Not YAML, a repeated key, or a tag that asks for a Python object.
    """
    return yaml.load(text, Loader=SafeLoader)  # noqa: S506 - SafeLoader above derives from yaml.SafeLoader


def parse_texts(text: str) -> Any:
    """Read a YAML text whose keys and values all stay text: `no`, `010` and `1e3` are names like others.

    Raises:
        yaml.YAMLError: Not YAML, or a repeated key.
    """
    return yaml.load(text, Loader=_TextLoader)  # noqa: S506 - it makes nothing but text, lists and mappings


def write(value: Any) -> str:
    """Write a value as YAML that `parse` reads back equal; keys keep their order.

    Raises:
        yaml.YAMLError: Something is no plain value.
    """
    return yaml.dump(value, Dumper=SafeDumper, sort_keys=False, allow_unicode=True)
