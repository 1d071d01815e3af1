"""The relation graph of training captions: extract, build, import, retrieve."""

from collect.graph.relation_graph import RelationGraph
from collect.graph.retrieval import Retrieval

__all__ = ["RelationGraph", "Retrieval"]
