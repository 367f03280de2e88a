"""The end-to-end race: whole trained networks by wqtvm and by its peers, in turns."""
