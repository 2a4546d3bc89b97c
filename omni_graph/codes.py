"""The codes of graph faults. Stable: scripts and people refer to them. ``explain.py`` says what each one means."""

from __future__ import annotations

from enum import StrEnum


class FaultCode(StrEnum):
    """One code per rule. A number is never reused."""

    UNREADABLE = "OG001"
    DUPLICATE_KEY = "OG002"
    UNKNOWN_KEY = "OG003"
    ILL_VALUE = "OG004"
    UNKNOWN_PARAMETER = "OG005"
    UNKNOWN_NODE = "OG006"
    UNKNOWN_PORT = "OG007"
    NOT_IMPORTABLE = "OG008"
    NOT_A_NODE = "OG009"
    UNKNOWN_PAYLOAD = "OG010"
    TYPES_DIFFER = "OG011"
    NOT_FED = "OG012"
    CYCLE = "OG013"
    UNREACHABLE_OUTPUT = "OG014"
    USELESS_NODE = "OG015"
    CONFIG_KEY = "OG016"
    CONFIG_VALUE = "OG017"
    RESERVED_NAME = "OG018"
    UNKNOWN_STAGE = "OG019"
    SHARED_STAGE = "OG020"
    MEMORY = "OG021"
    NO_ENVIRONMENT = "OG022"
