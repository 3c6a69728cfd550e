from tests.harness.base_model import few_layers, model_path

__all__ = ["few_layers", "model_path"]
