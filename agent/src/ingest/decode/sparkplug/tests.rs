//! What the Sparkplug decoder promises.
