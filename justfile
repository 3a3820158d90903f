# The few commands one needs every day. `just check` is exactly what CI runs.

# Real sensor data from an MQTT broker into an Iceberg table, on this machine.
demo *ARGS:
    cargo run --release --bin tributary-demo -- {{ARGS}}

# Everything that must pass before a push.
check:
    tests/run

# Only the Rust tests, with a filter.
test *FILTER:
    cargo test --release --workspace -- {{FILTER}}

# Format and lint.
tidy:
    cargo fmt --all
    cargo clippy --release --workspace --all-targets -- -D warnings

# Advisories, where their database can be fetched.
audit:
    cargo deny check
