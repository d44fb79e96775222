"""How a message finds its way: subject index, interest, mesh, rings and (later) routes."""
