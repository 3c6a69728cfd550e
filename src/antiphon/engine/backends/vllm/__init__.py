"""vLLM as an engine: its scheduler follows the same policy as our own loop.

vLLM runs in an environment of its own (``scripts/vllm-environment``) and imports ``scheduler`` from here by name;
only that file imports vLLM. What this folder needs besides is ``antiphon.engine`` and ``antiphon.core``.
"""
