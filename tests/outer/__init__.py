"""What every outer layer must do, and what each does beside."""
