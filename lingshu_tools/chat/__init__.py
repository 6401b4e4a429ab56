"""Tools for agents in this process, and the assistant of `lingshu chat`.

`Toolbox` gives the tools in the forms of OpenAI, Anthropic and LangChain; none of their packages is
needed. Its calls write the same ledger rows as those of any other entry point.
"""

from lingshu_tools.chat.assistant import Assistant, Display
from lingshu_tools.chat.endpoint import Endpoint
from lingshu_tools.chat.toolbox import AgentApp, Toolbox
from lingshu_tools.chat.transcript import Transcript

__all__ = ["AgentApp", "Assistant", "Display", "Endpoint", "Toolbox", "Transcript"]
