"""The planner: an objective and candidates become a plan, and its experiments a ranking."""

from lingshu_tools.planner.objectives.requests import Request
from lingshu_tools.planner.objectives.wanted import shown_of_record
from lingshu_tools.planner.plan import Plan, make_plan, objective_of, plan_of
from lingshu_tools.planner.ranking import Ranked, Ranking, race_state, rank

__all__ = [
    "Plan",
    "Ranked",
    "Ranking",
    "Request",
    "make_plan",
    "objective_of",
    "plan_of",
    "race_state",
    "rank",
    "shown_of_record",
]
