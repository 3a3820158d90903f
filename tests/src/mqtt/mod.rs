//! MQTT: the embedded broker and the recording proxy.
