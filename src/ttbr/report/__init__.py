"""What answers look like: text for people, plain values for JSON, the kernel's ptdump."""
