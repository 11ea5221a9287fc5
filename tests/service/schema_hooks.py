"""What a document cannot say: refusals of bodies that are of the right shape. Loaded by schemathesis itself."""

import json

import schemathesis

# By code: sums, names and rules that a JSON schema does not reach.
CODES = frozenset(
    {
        "context_length_exceeded", "dataset_refused", "empty_body", "invalid_name", "model_not_found", "no_reference",
        "recipe_refused", "rules_refused", "too_many_inputs", "too_many_neighbors", "too_many_tokens",
    }
)  # fmt: skip
# By field: what fits depends on the model that is asked, or on another field.
FIELDS = frozenset(
    {
        "prompt_name", "dimensions", "output_dimension", "truncation_direction", "adapter", "b", "before", "ids",
        "recipe", "since",
    }
)  # fmt: skip


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Drop "valid data was refused" where the refusal names one of these reasons; keep every other failure."""
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    try:
        problem = json.loads(response.content)
    except ValueError:
        return True
    error = problem["error"] if isinstance(problem["error"], dict) else problem
    return error["code"] not in CODES and error["param"] not in FIELDS
