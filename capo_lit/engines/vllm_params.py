"""A request in vLLM's own terms."""

from typing import TYPE_CHECKING

from capo_lit.engines.base import Request

if TYPE_CHECKING:
    from vllm import SamplingParams


def sampling_params(request: Request) -> "SamplingParams":
    """How vLLM is to draw a response.

    Args:
        request: what is asked; its schema becomes a grammar, whose tokens alone can be drawn.

    Raises:
        ValueError: if vLLM refuses the values.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling = request.sampling
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        seed=request.seed,
        stop=list(request.stop),
        # vLLM needs the text only to look for stop strings; ours comes from the ids.
        detokenize=bool(request.stop),
        logprobs=0,
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=None if request.schema is None else StructuredOutputsParams(json=dict(request.schema)),
    )
