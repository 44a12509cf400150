"""Tools and a reward function in verl's own form, as its users have them."""

from __future__ import annotations

import itertools
from typing import Any

from verl.tools.base_tool import BaseTool
from verl.tools.schemas import ToolResponse

_ticks = itertools.count()


class Till(BaseTool):
    """Adds prices. What it has added is state of the tool, which the calls of an attempt share."""

    def __init__(self, config: dict[str, Any], tool_schema: Any) -> None:
        super().__init__(config, tool_schema)
        self.total = 0
        self.discounts: dict[str, int] = {}

    async def create(self, instance_id: str | None = None, **kwargs: Any) -> tuple[str, ToolResponse]:
        instance_id, response = await super().create(instance_id, **kwargs)
        self.discounts[instance_id] = kwargs["create_kwargs"].get("discount", 0)
        return instance_id, response

    async def execute(
        self, instance_id: str, parameters: dict[str, Any], **kwargs: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        if parameters["price"] == 13:
            raise ValueError("nothing costs 13")
        self.total += parameters["price"] - self.discounts[instance_id]
        return ToolResponse(text=f"The total is {self.total}."), 0.0, {}

    async def release(self, instance_id: str, **kwargs: Any) -> None:
        del self.discounts[instance_id]


class Clock(BaseTool):
    """Counts for the whole process: no replay gives its answers again."""

    async def execute(
        self, instance_id: str, parameters: dict[str, Any], **kwargs: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        return ToolResponse(text=f"It is {next(_ticks)} o'clock."), 0.0, {}


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any], bonus: float = 0.0
) -> dict[str, Any]:
    if not solution_str.strip().isdecimal():
        return {"score": 0.0, "error": True, "feedback": "Answer with a number alone."}
    return {"score": float(solution_str.strip() == ground_truth) + bonus, "acc": solution_str.strip() == ground_truth}
