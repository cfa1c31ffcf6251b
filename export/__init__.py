"""What leaves for the cloud: the model as one ONNX graph, checked against the model it came from."""
