module leasehold.dev/tests/prometheus-operator

go 1.26.0

// For its CustomResourceDefinitions; nothing of it is built.
require github.com/prometheus-operator/prometheus-operator v0.94.0
