"""omni_graph: serve omni-modal models as a streaming graph of stages."""
