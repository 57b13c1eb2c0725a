"""`fastdreamer pack`: a trained run made small enough to give away."""
