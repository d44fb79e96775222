"""Who a client is: passwords, keys, certificates, claims."""
