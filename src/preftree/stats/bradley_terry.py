"""Bradley-Terry strengths of players from a table of wins, their spread over clusters, and what connects them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from preftree.errors import ConfigError

_TIE_IN_RESAMPLES = 0.1
"""Ties that each two players who met get in a resample: there one may have lost everything by chance."""


def strengths(wins: Float[np.ndarray, "N N"]) -> Float[np.ndarray, " N"]:
    """Maximum-likelihood strengths in log-odds, with mean 0: player i beats j with probability sigmoid(s_i - s_j).

    Args:
      wins: How often i beat j, a tie as half a win for each; the players form one component of `components`, [N, N].
    Raises:
      ConfigError: the extra `stats` is not installed.
    Source: Bradley and Terry 1952, Biometrika 39, p. 324; solved by evalica (Newman 2023, JMLR 24, p. 1).
    """
    try:
        import evalica
    except ImportError as error:
        raise ConfigError("a leaderboard needs evalica; pip install 'preftree[stats]'") from error
    better, worse = np.nonzero(wins)
    solved = evalica.bradley_terry(
        better.tolist(),
        worse.tolist(),
        [evalica.Winner.X] * len(better),
        weights=wins[better, worse].tolist(),
        tolerance=1e-9,
        limit=10_000,
    )
    scores = np.log(solved.scores.sort_index().to_numpy())
    return scores - scores.mean()


def resampled_strengths(
    first: Int[np.ndarray, " B"],
    second: Int[np.ndarray, " B"],
    points: Float[np.ndarray, "2 B"],
    cluster: Int[np.ndarray, " B"],
    num_players: int,
    *,
    seed: int,
    resamples: int,
) -> Float[np.ndarray, "R N"]:
    """Strengths over clusters drawn again with replacement; a cluster's battles stay together.

    Args:
      first, second: Players of each battle, [B].
      points: What each battle was worth to its first and to its second player, [2, B].
      cluster: Number of the prompt of each battle, from 0, [B].
      num_players: Number of players.
      seed: Seed of the draws.
      resamples: Number of draws.
    """
    num_clusters = int(cluster.max()) + 1
    cells = np.concatenate([first * num_players + second, second * num_players + first])
    table = csr_array((points.ravel(), (np.tile(cluster, 2), cells)), shape=(num_clusters, num_players**2))
    met = np.zeros(num_players**2)
    met[cells] = _TIE_IN_RESAMPLES / 2
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        counts = generator.multinomial(num_clusters, [1 / num_clusters] * num_clusters)
        drawn.append(strengths((table.T @ counts + met).reshape(num_players, num_players)))
    return np.array(drawn)


def components(wins: Float[np.ndarray, "N N"]) -> list[list[int]]:
    """Groups of players within which each has beaten or tied each other one through others, the largest first.

    Strengths exist only where there is one group: of two, one has never taken a point from the other, and how much
    better that one is cannot be said (or they never met).
    """
    count, group = connected_components(wins > 0, directed=True, connection="strong")
    groups = [np.flatnonzero(group == number).tolist() for number in range(count)]
    return sorted(groups, key=lambda members: (-len(members), members))
