"""The planner: what a training takes, and which ways to train fit into a memory.

Activations are measured in small steps and continued to other sizes (`costs`), weights and states are counted
(`fixed`), and what a device takes beside them stands in one table that result cards correct (`devices`).
"""

from pe_spatial.training.planner.hook import PlanHook
from pe_spatial.training.planner.planning import Plan, Target, plan, predict
from pe_spatial.training.planner.rows import Row

__all__ = ["Plan", "PlanHook", "Row", "Target", "plan", "predict"]
