"""The data set that Prism was published with, as it comes from the hub: a folder in, a catalogue out."""
