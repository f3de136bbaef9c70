module leasehold.dev/tests/recorder

go 1.26.0
