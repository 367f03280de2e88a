"""The race: single 3x3 convolutions by wqtvm and by its peers, in turns, results checked."""
