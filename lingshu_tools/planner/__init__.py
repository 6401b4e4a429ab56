"""The planner: an objective and candidates become a plan, and its experiments a ranking.

Knows nothing of tools, doors or pictures.
"""

from lingshu_tools.planner.plan import Plan, make_plan, plan_of
from lingshu_tools.planner.ranking import Ranked, Ranking, rank

__all__ = ["Plan", "Ranked", "Ranking", "make_plan", "plan_of", "rank"]
