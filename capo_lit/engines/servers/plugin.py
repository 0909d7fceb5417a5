"""What vLLM calls in every process of a server: it makes known how weights come out of files.

pyproject.toml names `register` as an entry point of vllm.general_plugins.
"""

FILES = "capo_files"
"""The name of the way, in a server's --weight-transfer-config."""


def register() -> None:
    """Name the receiver; its module is loaded only by a server that is to use it."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if FILES not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(FILES, "capo_lit.engines.servers.receiver", "FileReceiver")
