"""The online server: the requests of the TorchServe archive, on the ONNX engine, with batching, limits and metrics."""
