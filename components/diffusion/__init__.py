"""The ground floor: pure functions of tensors that objectives and samplers share."""
