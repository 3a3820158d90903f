//! Reads the configuration from TOML and names every problem at once.
