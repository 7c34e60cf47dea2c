"""``[intent]`` of a scenario: which regions the program is meant to reach, and how."""

from dataclasses import replace

from ttbr.build import Attributes
from ttbr.build.attributes import wanted_permissions
from ttbr.regions import Region
from ttbr.switch.document import Section, within
from ttbr.switch.problem import Intent, IntentMap
from ttbr.switch.scenario_tables import Regions, read_regime

__all__ = ["read_intents"]

_FIELDS = ("reach", "fault", "unmapped", "end", "always")


def read_intents(section: Section, regions: Regions, named: Section) -> tuple[Intent, ...]:
    """The intent of each region that the section names; `InvalidError` where they contradict.

    *named* is the section of the regions, which may limit one to a regime. Addresses of two regimes
    must not overlap, or mean the same: the program is read by address alone.
    """
    section.only(*_FIELDS)
    chosen: dict[str, Intent] = {}
    for key in _FIELDS:
        for name in section.names(key):
            if name not in regions:
                raise section.error(key, f"there is no region {name!r}")
            made = _intent(section, key, regions[name], chosen.get(name))
            chosen[name] = replace(made, regime=read_regime(named.section(name), ""))
    if not chosen:
        raise section.error("reach", "nothing is meant to be reached")
    found = tuple(chosen.values())
    with within(section.where):
        IntentMap(found)
    return found


def _intent(
    section: Section, key: str, region: Region[Attributes], before: Intent | None
) -> Intent:
    if key == "unmapped" and before is not None:
        raise section.error(key, f"{region.name} contradicts itself: to be reached, and unmapped")
    with within(section.where):
        made = before or Intent(
            region.va,
            region.size,
            None if key == "unmapped" else region.pa,
            region.attributes.memory_byte,
            wanted_permissions(region.attributes, 1),
            name=region.name,
        )
    if key == "fault":
        return replace(made, fault=True)
    return replace(made, when=key) if key in ("end", "always") else made
