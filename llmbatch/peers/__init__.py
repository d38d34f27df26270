"""What processes of one fleet know of each other: circuits, rates, the cost cap. Local decides, shared coordinates."""
