//! holdfast, the operator's tool.
