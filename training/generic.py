"""Generic sentences on which the geometry of a head is compared with the base: many topics, none of a tenant's own.

A head fitted to C labels rightly squeezes the training texts together; whether it squeezes everything else as well can
only be seen on texts that have nothing to do with them.
"""

_TOPICS = (
    (
        ("the river", "a mountain lake", "the pine forest", "an old glacier", "the coral reef"),
        ("changes with the seasons", "is home to rare birds", "was painted by many artists"),
    ),
    (
        ("the football match", "her first marathon", "the chess final", "a swimming race", "the cycling tour"),
        ("was decided in the last minute", "drew a large crowd", "had to be postponed by a week"),
    ),
    (
        ("fresh bread", "the lentil soup", "a chocolate cake", "grilled fish", "the tomato salad"),
        ("needs a little more salt", "tastes best on the same day", "comes from a family recipe"),
    ),
    (
        ("the parliament", "a city council", "the new minister", "an opposition party", "the court of appeal"),
        ("rejected the proposal", "will vote on it in spring", "published a statement last night"),
    ),
    (
        ("a distant galaxy", "the space probe", "the lunar eclipse", "a meteor shower", "the radio telescope"),
        ("surprised the astronomers", "can be observed from the desert", "sent its first images"),
    ),
    (
        ("the violin sonata", "an early jazz record", "the church choir", "a street drummer", "the opera"),
        ("opened with a quiet theme", "filled the square with sound", "was recorded in one take"),
    ),
    (
        ("the vaccine", "a broken wrist", "regular sleep", "high blood pressure", "the physiotherapist"),
        ("was the subject of a long study", "matters more with age", "is explained in the leaflet"),
    ),
    (
        ("the steam engine", "a wooden bridge", "the printing press", "an electric tram", "the first computer"),
        ("changed how people worked", "stands in the museum today", "took ten years to build"),
    ),
    (
        ("the maths teacher", "a primary school", "the exam in history", "an exchange student", "the library"),
        ("received an award", "starts at eight in the morning", "was closed during the summer"),
    ),
    (
        ("the sheepdog", "a stray cat", "the honey bee", "an elephant herd", "the snowy owl"),
        ("finds its way home", "was seen near the village", "is protected by law"),
    ),
    (
        ("the night train", "a delayed flight", "the mountain road", "an island ferry", "the youth hostel"),
        ("was fully booked", "offers a view of the coast", "leaves from the other side of town"),
    ),
    (
        ("the detective novel", "a short poem", "the silent film", "an oil portrait", "the theatre play"),
        ("ends without an answer", "was found in an attic", "divided the critics"),
    ),
    (
        ("the wheat harvest", "an apple orchard", "the milk price", "a vineyard", "the drought"),
        ("worries the farmers", "was better than last year", "depends on the rain in May"),
    ),
    (
        ("the leaking roof", "a garden fence", "the kitchen sink", "an old heating system", "the stone wall"),
        ("has to be repaired before winter", "cost more than expected", "was finished on Saturday"),
    ),
    (
        ("the stock exchange", "a small bakery", "the steel industry", "the labour market", "an insurance group"),
        ("recovered slowly", "hired twenty people", "reported a loss for the quarter"),
    ),
    (
        ("my grandmother", "the new neighbour", "a childhood friend", "the wedding party", "her younger brother"),
        ("sang until midnight", "moved to another country", "told a story nobody believed"),
    ),
)


def generic_texts() -> list[str]:
    """240 sentences on 16 topics, always the same."""
    return [
        f"{subject} {predicate}" for subjects, predicates in _TOPICS for subject in subjects for predicate in predicates
    ]
