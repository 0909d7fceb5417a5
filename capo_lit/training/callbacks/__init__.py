"""Lightning callbacks: thin triggers over plain objects. Order: rollout, critique, record, export, checkpoint."""
