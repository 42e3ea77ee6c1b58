"""A trainer without torch: a response surface over the whole plan, fitted to recorded trials."""

from coral.simulation.agreement import Agreement, Pull, measure_agreement
from coral.simulation.course import World
from coral.simulation.profile import FORMAT, Profile, TaskProfile
from coral.simulation.profile_file import (
    dump_profile,
    find_profile,
    read_profile,
    read_task_profile,
)
from coral.simulation.survey import TaskRequest, simulated_survey, task_profiles
from coral.simulation.trainer import SimulatedTrainer
from coral.simulation.weights import WeightsInAddresses

__all__ = [
    "FORMAT",
    "Agreement",
    "Profile",
    "Pull",
    "SimulatedTrainer",
    "TaskProfile",
    "TaskRequest",
    "WeightsInAddresses",
    "World",
    "dump_profile",
    "find_profile",
    "measure_agreement",
    "read_profile",
    "read_task_profile",
    "simulated_survey",
    "task_profiles",
]
