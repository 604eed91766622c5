# Regular expressions, hashes, sorting and arithmetic.
use strict;
use warnings;

open(my $file, '<', '/bench/suite/text') or die "no text: $!";
read($file, my $text, 1_500_000);
my (%count, $vowels);
$count{lc $1}++ while $text =~ /\b([a-z]{3,}?[aeiou])\b/gi;
$vowels += length $2 while $text =~ /([aeiou])([b-df-hj-np-tv-z]+)([aeiou])/g;
(my $other = $text) =~ s/(\w+) (\w+)/$2 $1/g;
my @words = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
my $sum = 0;
$sum = ($sum * 31 + $_) % 65537 for 1 .. 1_200_000;
print scalar(@words), " @words[0..2] $vowels ", substr($other, 0, 20), " $sum\n";
