module leasehold.dev/tests/kyverno

go 1.26.0

// For its CustomResourceDefinitions; nothing of it is built.
require github.com/kyverno/kyverno v1.19.1
