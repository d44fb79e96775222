"""What a server says of itself: monitoring documents, made from facts and a query."""
