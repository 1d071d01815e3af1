"""Finished searches, read back from a store."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collect.protocols import Verdict
from collect.search.schema import DATABASE, opened, scores_of
from collect.search.sspo import Assessment, Candidate, Proposal, Trajectory
from data_modules.records import Prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JudgedVideo:
    """A video that is there, and what each verifier says of it as an answer to a raw prompt."""

    path: Path
    seed: int
    generator: str
    verdicts: dict[str, Verdict]


def read_trajectories(folder: Path) -> tuple[list[Trajectory], dict[str, Any]]:
    """Read every search of a store that was not given up, and the settings it was made with.

    Raises:
        FileNotFoundError: if there is no store.
        ValueError: if it is damaged, another program's or a later version's, or its run did not end.
    """
    with opened(folder) as (database, made):
        if not made["finished"]:
            raise ValueError(f"{folder} is not finished; start its collect run again, it resumes where it stopped.")
        trajectories = {
            row[0]: Trajectory(Prompt(*row))
            for row in database.execute("SELECT id, prompt, task FROM prompts ORDER BY position")
        }
        rounds: dict[tuple[str, int], list[Candidate]] = {}
        error = "error" if made["schema_version"] > 1 else "NULL"
        query = (
            f"SELECT prompt_id, round, text, origin, scores, observations, critique, {error} FROM candidates "
            f"WHERE scores IS NOT NULL OR {error} IS NOT NULL ORDER BY prompt_id, number"
        )
        for prompt_id, number, text, origin, scores, observations, critique, why in database.execute(query):
            where = f"{folder / DATABASE}, table candidates, prompt {prompt_id},"
            judged, observed = (scores_of(values or "{}", where) for values in (scores, observations))
            found = Assessment(judged, observed, critique or "", why)
            rounds.setdefault((prompt_id, number), []).append(Candidate(Proposal(text, origin), number, found))
        for (prompt_id, _), candidates in rounds.items():
            trajectories[prompt_id].add(candidates)
    searches = [trajectory for trajectory in trajectories.values() if trajectory.candidates]
    given_up = sum(bool(trajectory.failures) for trajectory in trajectories.values() if not trajectory.candidates)
    if given_up:
        logger.warning("%s: %d searches are left out, their raw prompts could not be judged.", folder, given_up)
    return searches, made["settings"]


def read_seed_scores(folder: Path) -> dict[tuple[str, str], dict[int, dict[str, float]]]:
    """Read what was scored video by video, from a store that :func:`read_trajectories` accepts.

    Returns:
        For prompt id and text, the scores of each seed as ``verifier/metric``.
    """
    query = (
        "SELECT prompt_id, prompt, seed, verifier, scores FROM verdicts JOIN renders ON renders.id = render_id "
        "ORDER BY prompt_id, prompt, seed, verifier"
    )
    scores: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    with opened(folder) as (database, _):
        for prompt_id, text, seed, verifier, values in database.execute(query):
            of_seed = scores.setdefault((prompt_id, text), {}).setdefault(seed, {})
            found = scores_of(values, f"{folder / DATABASE}, table verdicts, prompt {prompt_id},")
            of_seed.update({f"{verifier}/{metric}": value for metric, value in found.items()})
    return scores


def read_videos(folder: Path) -> dict[tuple[str, str], list[JudgedVideo]]:
    """Read every judged video of a store that :func:`read_trajectories` accepts, by prompt id and text."""
    query = (
        "SELECT prompt_id, renders.prompt, video, seed, generator, verifier, scores, critique, {error} "
        "FROM verdicts JOIN renders ON renders.id = render_id ORDER BY prompt_id, renders.prompt, seed, verifier"
    )
    videos: dict[tuple[str, str], dict[str, JudgedVideo]] = {}
    with opened(folder) as (database, made):
        query = query.format(error="error" if made["schema_version"] > 1 else "NULL")
        for prompt_id, text, video, seed, generator, verifier, scores, critique, error in database.execute(query):
            judged = videos.setdefault((prompt_id, text), {}).setdefault(
                video, JudgedVideo(folder / video, seed, generator, {})
            )
            found = scores_of(scores, f"{folder / DATABASE}, table verdicts, prompt {prompt_id},")
            judged.verdicts[verifier] = Verdict(found, critique, error)
    return {key: list(found.values()) for key, found in videos.items()}
