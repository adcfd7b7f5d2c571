"""Operations on whole models: growing them, comparing them."""
